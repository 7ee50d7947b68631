//! A cluster's folder and its guard: a process that removes everything when the owner is gone, however it went.
//!
//! The folder also says who owns it, so that a later lab can remove what a killed guard left.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command;
use crate::runtime::process::{is_alive, start_ticks};

/// All labs of this machine live here: on a tmpfs, as hundreds of node disks are written and thrown away.
const ROOT: &str = "/dev/shm/nodectl-lab";

/// Clusters that this process has made.
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A cluster's place on the machine.
#[derive(Debug)]
pub struct Workspace {
    /// The prefix of all names the cluster uses on the machine.
    pub prefix: String,
    /// Its folder.
    pub folder: PathBuf,
    guard: Option<Child>,
}

impl Workspace {
    /// Makes the folder and starts the guard, after sweeping what dead labs left.
    pub fn new(binary: &Path) -> Result<Workspace> {
        sweep();
        let (prefix, folder) = owned_folder("lab")?;
        let guard = Command::new(binary)
            .args(["guard".as_ref(), folder.as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| command::lab_not_started(binary))?;
        Ok(Workspace { prefix, folder, guard: Some(guard) })
    }

    /// The network namespace of the underlay.
    pub fn underlay(&self) -> String {
        format!("{}-ul", self.prefix)
    }

    /// Notes a process that must not outlive the cluster.
    pub fn adopt(&self, pid: u32) -> Result<()> {
        Workspace::note(&self.folder, pid)
    }

    /// Notes a process in the folder of its cluster.
    pub fn note(folder: &Path, pid: u32) -> Result<()> {
        let list = folder.join("processes");
        fs::create_dir_all(&list).context("the list of processes could not be made")?;
        let started = start_ticks(pid.cast_signed()).unwrap_or_default().to_string();
        fs::write(list.join(pid.to_string()), started).context("a process could not be noted")
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let Some(mut guard) = self.guard.take() else {
            return;
        };
        // The end of its input is what the guard waits for.
        drop(guard.stdin.take());
        let _ = guard.wait();
    }
}

/// A folder on a tmpfs for one who is no cluster; the next lab removes it if its owner is killed.
pub fn scratch(kind: &str) -> Result<PathBuf> {
    owned_folder(kind).map(|(_, folder)| folder)
}

/// Makes a folder KIND + PID + NUMBER that says who owns it; its name, and its path.
fn owned_folder(kind: &str) -> Result<(String, PathBuf)> {
    let owner = std::process::id();
    let name = format!("{kind}{owner}-{}", COUNTER.fetch_add(1, Ordering::Relaxed));
    let folder = Path::new(ROOT).join(&name);
    fs::create_dir_all(&folder)
        .with_context(|| format!("the lab's folder {} could not be made. To fix it: run as root", folder.display()))?;
    let started = start_ticks(owner.cast_signed()).unwrap_or_default();
    fs::write(folder.join("owner"), format!("{owner} {started}")).context("the lab's owner could not be noted")?;
    Ok((name, folder))
}

/// The program `guard FOLDER`: waits for the owner's end, then removes the cluster.
pub fn guard(arguments: &[String]) -> Result<ExitCode> {
    let [folder] = arguments else {
        anyhow::bail!("usage: nodectl-lab guard FOLDER");
    };
    let mut rest = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut rest);
    remove(Path::new(folder));
    Ok(ExitCode::SUCCESS)
}

/// Removes every lab whose owner is dead and whose guard did not do it.
fn sweep() {
    for entry in fs::read_dir(ROOT).into_iter().flatten().flatten() {
        let owner = fs::read_to_string(entry.path().join("owner")).unwrap_or_default();
        let alive = owner
            .split_once(' ')
            .and_then(|(pid, started)| Some((pid.parse().ok()?, started.parse::<u64>().ok()?)))
            .is_some_and(|(pid, started)| is_alive(pid, started));
        // A folder without an owner was made this instant by another lab.
        if !alive && !owner.is_empty() {
            remove(&entry.path());
        }
    }
}

/// Ends a cluster's processes, then removes its namespace and its folder.
fn remove(folder: &Path) {
    let prefix = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    end_processes(folder);
    crate::full::cgroup::remove_all(&prefix);
    let underlay = format!("{prefix}-ul");
    if Path::new("/run/netns").join(&underlay).exists()
        && let Err(error) = command::run(&["ip", "netns", "del", &underlay])
    {
        eprintln!("nodectl-lab: the underlay {underlay} could not be removed: {error:#}");
    }
    // A node that is being killed may write for a moment still.
    let until = Instant::now() + Duration::from_secs(5);
    while fs::remove_dir_all(folder).is_err() && folder.exists() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Kills the processes noted in a cluster's folder, and waits until they are gone.
fn end_processes(folder: &Path) {
    let noted: Vec<(i32, u64)> = fs::read_dir(folder.join("processes"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let started = fs::read_to_string(entry.path()).ok()?.parse().ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, started))
        })
        .collect();
    // A number may have been given to another process since: the start time tells.
    let alive = |(pid, started): &&(i32, u64)| is_alive(*pid, *started);
    for (pid, _) in noted.iter().filter(alive) {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    let until = Instant::now() + Duration::from_secs(5);
    while noted.iter().any(|process| alive(&process)) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
}
