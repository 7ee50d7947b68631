//! A run's life: the lock, the folders, the open file that names it, its journal, its end.

mod confirm;
mod drafts;
mod drive;
mod folders;
mod lock;
mod motd;
mod options;
mod owing;
mod shortest;
mod summary;

pub use confirm::{is_too_late, possible as can_be_confirmed, was_rebooted};
pub use drive::{confirm, resume, revert_open, start};
pub use folders::Folders;
pub use lock::Lock;
pub use motd::update as update_motd;
pub use options::Options;
pub use shortest::shortest;
