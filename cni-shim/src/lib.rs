//! What cni-shim and nodectl share: the files in the shim's state directory, and the pure parts of a small CNI runtime.
//!
//! The binary `cni-shim` is a CNI plugin. It runs one of two conflists (flannel's or Calico's) as libcni would run it, and
//! remembers for each attachment which one that was, so that DEL, CHECK and GC go where ADD went. nodectl uses this library
//! to switch the state ([`state::State`]), to import sandboxes older than the shim ([`evidence`]), to adopt pods (by editing
//! their [`record::Record`] under [`lock::attachment`]) and to finish what a runtime gave up ([`pending`]).

pub mod chain;
pub mod conflist;
pub mod convert;
pub mod delete;
pub mod error;
pub mod evidence;
pub mod exec;
pub mod file;
pub mod holds;
pub mod lock;
pub mod paths;
pub mod pending;
pub mod record;
pub mod request;
pub mod scratch;
pub mod state;

pub use error::Error;
pub use paths::Paths;
