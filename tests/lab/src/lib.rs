//! x
pub mod cri { tonic::include_proto!("runtime.v1"); }
