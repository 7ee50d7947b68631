//! Several Kubernetes nodes on one machine, for nodectl's tests and its demo.
//!
//! What a package can supply is real; the rest are stand-ins that behave as the real programs do, the inconvenient parts included.

pub mod agent;
pub mod apiserver;
pub mod bench;
pub mod calico;
pub mod client;
pub mod cluster;
pub mod command;
pub mod controllers;
pub mod demo;
pub mod fixture;
pub mod flannel;
pub mod full;
pub mod init;
pub mod kube_apiserver;
pub mod kubelet;
pub mod libcni;
pub mod node;
pub mod objects;
pub mod package;
pub mod pki;
pub mod pod;
pub mod runtime;
pub mod scenario;
pub mod snapshot;
pub mod terminal;
pub mod traffic;
pub mod vm;
pub mod wait;

/// The container runtime interface, generated from the definition that nodectl uses.
#[allow(missing_docs, clippy::all)]
pub mod cri {
    tonic::include_proto!("runtime.v1");
}
