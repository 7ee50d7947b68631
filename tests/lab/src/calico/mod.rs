//! Stand-ins for Calico: its CNI plugins, the installer that puts them on a node, and calico-node.

pub mod cni;
pub mod endpoint;
pub mod felix;
pub mod install;
pub mod ipam;
pub mod node;
pub mod token;
