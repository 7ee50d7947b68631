//! Waiting for what must come, with the lab's patience.

use nodectl_lab::cluster::until;
use nodectl_lab::scenario::PATIENCE;

/// Waits until it is so.
pub fn soon(what: &str, is_so: impl Fn() -> bool) {
    until(PATIENCE, || Ok((!is_so()).then(|| what.to_owned()))).unwrap();
}
