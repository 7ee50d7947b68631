//! Processes by number, told apart from later ones of the same number.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// When a process started, in clock ticks since boot; nothing when it has ended, be it as a zombie.
pub fn start_ticks(pid: i32) -> Option<u64> {
    cni_spec::process::started(pid.cast_unsigned())
}

/// True while this very process runs.
pub fn is_alive(pid: i32, ticks: u64) -> bool {
    pid != 0 && start_ticks(pid) == Some(ticks)
}

/// Sends SIGTERM, after `grace` SIGKILL, and waits for the end.
pub fn end(pid: i32, ticks: u64, grace: Duration) {
    for (signal, limit) in [(Signal::SIGTERM, grace), (Signal::SIGKILL, Duration::from_secs(10))] {
        if limit.is_zero() {
            continue;
        }
        if is_alive(pid, ticks) {
            // The process leads its own group: its children go with it.
            let _ = kill(Pid::from_raw(-pid), signal);
        }
        let until = Instant::now() + limit;
        while is_alive(pid, ticks) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
