//! Why the order of the steps is what it is: each plan here does one thing at another place, and fails or does visible harm.
//!
//! The plans are saved, changed and carried out with `migrate --plan`; where that puts the node back by itself, it must be whole
//! again, and where the run is left open to look at the harm, `revert` must make it whole.

#[path = "wrong_order/bench.rs"]
mod bench;
#[path = "wrong_order/blocks.rs"]
mod blocks;
#[path = "wrong_order/to_calico.rs"]
mod to_calico;
#[path = "wrong_order/to_flannel.rs"]
mod to_flannel;
#[path = "wrong_order/versions.rs"]
mod versions;
