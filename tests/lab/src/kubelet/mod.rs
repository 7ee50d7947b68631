//! The stand-in for the kubelet.

mod cri_client;

pub use cri_client::Cri;
