//! The stand-in for calico-node (felix and its startup).
