//! What starts when a node boots, and stops when it shuts down.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::supervisor::{JobKind, Supervisor};
use super::{jobs, service};

/// How long the boot waits for the runtime and the kubelet: units that come first may take as long as they like.
const LIMIT: Duration = Duration::from_secs(10);

/// Starts every enabled unit; their order is what their files say. Answers when the runtime and the kubelet were started.
pub fn run(supervisor: &Arc<Supervisor>) {
    let mut queued = Vec::new();
    for name in enabled() {
        match jobs::queue(supervisor, JobKind::Start, &name) {
            Ok(id) => queued.push((id, name)),
            Err(refusal) => eprintln!("init: {name} is enabled but cannot be started: {refusal:?}"),
        }
    }
    let mut awaited = Vec::new();
    // Only when all are queued: a job that runs must see those that are ordered before it.
    for (id, name) in queued {
        jobs::run(supervisor, id, |_, _| ());
        if matches!(name.as_str(), "containerd.service" | "kubelet.service") {
            awaited.push(id);
        }
    }
    let until = Instant::now() + LIMIT;
    let mut state = supervisor.lock();
    while awaited.iter().any(|id| state.jobs.contains_key(id)) && Instant::now() < until {
        state = supervisor.wait(state, Duration::from_millis(100));
    }
}

/// Stops what runs: the kubelet first, as it would start again what the others stop, the runtime last.
pub fn stop(supervisor: &Arc<Supervisor>) {
    let mut running: Vec<String> = supervisor
        .lock()
        .units
        .iter()
        .filter(|(_, unit)| unit.active != "inactive")
        .map(|(name, _)| name.clone())
        .collect();
    running.sort_by_key(|name| match name.as_str() {
        "kubelet.service" => 0,
        "containerd.service" => 2,
        _ => 1,
    });
    for name in running {
        service::stop(supervisor, &name);
    }
}

/// Where `systemctl enable` puts a unit's link.
pub fn wants_link(target: &str, unit: &str) -> PathBuf {
    Path::new("/etc/systemd/system").join(format!("{target}.wants")).join(unit)
}

/// The units that some target wants.
fn enabled() -> BTreeSet<String> {
    let folders = fs::read_dir("/etc/systemd/system").into_iter().flatten().flatten();
    folders
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".wants"))
        .filter_map(|entry| fs::read_dir(entry.path()).ok())
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".service"))
        .collect()
}
