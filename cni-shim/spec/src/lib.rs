//! What a CNI runtime does, as the specification and libcni have it: the error object, versions and results in each of them,
//! conflists, what a plugin is asked and what it is called with. It knows nothing of flannel, Calico or a node's state.

pub mod chain;
pub mod conflist;
pub mod convert;
pub mod error;
pub mod exec;
pub mod process;
pub mod skel;

pub use error::Error;
