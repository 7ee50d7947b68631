//! Processes, as /proc shows them.

use std::fs;

/// When a process started, in clock ticks since boot; `None` if it is gone or a zombie.
pub fn started(pid: u32) -> Option<u64> {
    living(&pid.to_string(), 19)
}

/// Whether a process of this group lives.
pub fn group_lives(group: u32) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .into_iter()
        .any(|process| process.file_name().to_str().and_then(|pid| living(pid, 2)) == Some(group.into()))
}

/// One number of /proc/PID/stat, counted from the state; `None` if the process is gone or a zombie.
fn living(pid: &str, place: usize) -> Option<u64> {
    // proc_pid_stat(5): the name (field 2) may contain anything, so count from its closing parenthesis: field 3 is the
    // state, field 5 the group, field 22 the start.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    match *fields.clone().next()?.as_bytes() {
        [b'Z' | b'X' | b'x'] => None,
        _ => fields.nth(place)?.parse().ok(),
    }
}
