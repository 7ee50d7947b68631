//! Processes, as /proc shows them.

use std::path::Path;

use anyhow::{Context, Result};

use crate::facts::Process;

/// Every process with a command line that this /proc shows, containers' included; kernel threads are left out.
pub fn scan() -> Result<Vec<Process>> {
    let entries = std::fs::read_dir("/proc").context("could not list /proc")?;
    let mut processes: Vec<Process> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter_map(read).collect();
    processes.sort_by_key(|p| p.pid);
    Ok(processes)
}

/// One process; `None` when it has gone or is a kernel thread.
pub fn read(pid: u32) -> Option<Process> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let args: Vec<String> = bytes.split(|b| *b == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
    let end = args.iter().rposition(|a| !a.is_empty())? + 1;
    let args = args[..end].to_vec();
    Some(Process { pid, name: name(pid, &args), args })
}

/// Whether a process with this id is there and not merely waiting to be reaped.
pub fn alive(pid: u32) -> bool {
    cni_spec::process::started(pid).is_some()
}

fn name(pid: u32, args: &[String]) -> String {
    let base = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
    // A rewritten title ("nginx: worker process") is one long argv[0]; its first word is what was started.
    let first = args.first().and_then(|a| a.split_whitespace().next()).unwrap_or_default();
    base(Path::new(first.trim_end_matches(':')))
        .or_else(|| base(&std::fs::read_link(format!("/proc/{pid}/exe")).ok()?))
        .unwrap_or_default()
}
