//! nodectl switches the network of a running Kubernetes node between flannel and Calico.

pub mod clock;
pub mod cluster;
pub mod cni;
/// Container Runtime Interface v1, generated from proto/cri.proto.
#[allow(missing_docs, clippy::all, clippy::too_many_lines, clippy::disallowed_methods)]
pub mod cri_proto {
    tonic::include_proto!("runtime.v1");
}
pub mod facts;
pub mod failure;
pub mod fault;
pub mod host;
pub mod journal;
pub mod ownership;
pub mod plan;
pub mod preflight;
pub mod prepared;
pub mod report;
pub mod request;
pub mod rules;
pub mod step;
pub mod stop;
pub mod verify;
