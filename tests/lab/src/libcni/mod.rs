//! A small libcni and go-cni, with the behaviour that containerd's users know: what is loaded, what is cached, what DEL is run with.

mod cache;
pub mod chain;
mod conflist;
mod engine;
mod exec;
mod watch;

pub use chain::Attachment;
pub use conflist::{ConfList, load_folder};
pub use engine::{Engine, NOT_INITIALIZED};
pub use watch::watch;
