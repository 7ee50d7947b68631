//! Several Kubernetes nodes on one machine, for nodectl's tests and its demo.
//!
//! What a package can supply is real; the rest are stand-ins that behave as the real programs do, the inconvenient parts included.

pub mod apiserver;
pub mod calico;
pub mod calico_node;
pub mod client;
pub mod cluster;
pub mod controllers;
pub mod demo;
pub mod flanneld;
pub mod init;
pub mod install_cni;
pub mod install_flannel;
pub mod kubelet;
pub mod node;
pub mod objects;
pub mod pki;
pub mod pod;
pub mod runtime;
pub mod snapshot;
pub mod traffic;

/// The container runtime interface, generated from the definition that nodectl uses.
pub mod cri {
    tonic::include_proto!("runtime.v1");
}
