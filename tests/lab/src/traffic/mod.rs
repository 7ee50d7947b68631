//! Probes between pods: loss, longest gap and the source address that the target saw, per pair.

mod endpoint;
mod flow;
mod follow;
mod matrix;
pub mod probe;
mod prober;

pub use endpoint::{Endpoint, netns};
pub use flow::Flow;
pub use follow::Traffic;
pub use matrix::{Pair, matrix, matrix_in, matrix_of};
