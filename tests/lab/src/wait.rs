//! Waiting in tests for what happens, and for what must not.

use std::time::{Duration, Instant};

use anyhow::Result;

/// How long a part of the lab may take to be as it should; generous, since the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// How often is asked.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until it is so; panics, with what was waited for, when [`PATIENCE`] is over.
#[track_caller]
pub fn eventually(what: &str, is_so: impl FnMut() -> bool) {
    within(PATIENCE, what, is_so);
}

/// Waits until it is so, for a limited time; panics at its end.
#[track_caller]
pub fn within(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < end, "did not happen within {limit:?}: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Asks up to four times, each time as long as the lab waits: on an emulated machine, or where many things are at work.
pub fn patiently<T>(ask: impl Fn() -> Result<T>) -> Result<T> {
    (0..3).find_map(|_| ask().ok()).map_or_else(ask, Ok)
}

/// True if it stays so for this time.
pub fn stays(time: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if !is_so() {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
    true
}
