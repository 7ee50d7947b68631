//! Waiting for what happens, and for what must not.

use std::time::{Duration, Instant};

/// Waits until something is true: long, because the machine may be busy with other tests.
pub fn eventually(what: &str, check: impl Fn() -> bool) {
    within(Duration::from_secs(60), what, check);
}

/// Waits until something is true, for a limited time.
pub fn within(limit: Duration, what: &str, check: impl Fn() -> bool) {
    let end = Instant::now() + limit;
    while !check() {
        assert!(Instant::now() < end, "did not happen within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// True if something stays true for a while.
pub fn stays(time: Duration, check: impl Fn() -> bool) -> bool {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if !check() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}
