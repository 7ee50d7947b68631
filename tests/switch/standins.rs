//! The stand-ins for flannel and Calico, each inconvenient behaviour at work on real kernel objects.

#[path = "standins/calico.rs"]
mod calico;
#[path = "standins/dual.rs"]
mod dual;
#[path = "standins/felix.rs"]
mod felix;
#[path = "standins/flannel.rs"]
mod flannel;
#[path = "standins/host.rs"]
mod host;
#[path = "standins/light.rs"]
mod light;
#[path = "standins/prepared.rs"]
mod prepared;
#[path = "standins/world.rs"]
mod world;
