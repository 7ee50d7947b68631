//! A network namespace for the calling test thread, and iproute2's view of it.

use std::fs::File;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Moves this thread into a network namespace of its own, gone with the thread. Loopback is up.
pub fn enter() {
    unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
    sh("ip link set lo up");
}

/// A second namespace, which lives as long as the file that stands for it.
#[allow(dead_code)]
pub fn another() -> File {
    let thread = std::thread::spawn(|| {
        enter();
        File::open("/proc/thread-self/ns/net").unwrap()
    });
    thread.join().unwrap()
}

/// Runs a shell line in this thread's namespace and returns its output.
pub fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{line}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The same, parsed as JSON.
#[allow(dead_code)]
pub fn json(line: &str) -> serde_json::Value {
    let text = sh(line);
    serde_json::from_str(if text.trim().is_empty() { "[]" } else { &text }).expect(line)
}
