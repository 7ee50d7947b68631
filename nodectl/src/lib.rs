//! nodectl switches the network of a running Kubernetes node between flannel and Calico.

pub mod cni;
/// Container Runtime Interface v1, generated from proto/cri.proto.
#[allow(missing_docs, clippy::all, clippy::too_many_lines, clippy::disallowed_methods)]
pub mod cri_proto {
    tonic::include_proto!("runtime.v1");
}
pub mod facts;
pub mod fault;
pub mod host;
pub mod prepared;
