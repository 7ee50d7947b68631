//! The CNI plugin `cni-shim`: it runs one of two conflists (flannel's or Calico's) as libcni would run it, and remembers for
//! each attachment which one that was, so that DEL, CHECK and GC go where ADD went.

pub mod request;
