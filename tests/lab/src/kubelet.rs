//! The stand-in for the kubelet.
