//! A run's life: the lock, the folders, the open file that names it, its journal, its end.

mod drafts;
mod drive;
mod folders;
mod lock;
mod owing;
mod summary;

pub use drive::{Options, resume, revert_open, start};
pub use folders::Folders;
pub use lock::Lock;
