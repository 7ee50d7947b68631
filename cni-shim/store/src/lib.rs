//! What cni-shim and nodectl both read and write: the files in the shim's state directory, the backends' conflists, and what
//! other programs have left of an attachment.
//!
//! nodectl switches the state ([`state::State`]), imports sandboxes older than the shim ([`evidence`]), adopts pods (by editing
//! their [`record::Record`] under [`lock::attachment`]) and finishes what a runtime gave up ([`pending`]). The shim routes each
//! ADD by the state, and its DEL, CHECK and GC by the record.

pub mod backends;
pub mod delete;
pub mod evidence;
pub mod file;
pub mod holds;
pub mod lock;
pub mod paths;
pub mod pending;
pub mod record;
pub mod scratch;
pub mod state;

pub use paths::Paths;
