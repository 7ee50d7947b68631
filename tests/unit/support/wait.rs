//! Waiting for what another thread or process does.

use std::time::{Duration, Instant};

/// Waits until it is done; long, because the machine may be busy.
#[track_caller]
pub fn wait_for(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(5));
    }
}
