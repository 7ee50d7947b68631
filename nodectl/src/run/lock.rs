//! One nodectl at a time changes a node.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::failure::Failure;
use crate::host::{Host, files, process};

/// The lock of this node, held as long as this lives. It is a flock: a killed process leaves none behind.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock; busy where another nodectl has it.
    pub fn take(host: &Host) -> Result<Lock> {
        let path = host.path("/run/nodectl/lock");
        let (mut file, holder) = open(&path)?;
        match file.try_lock() {
            Ok(()) => {
                // The pid is for people and for --take-over; the lock itself is the kernel's.
                file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).context("could not write the lock")?;
                Ok(Lock { _file: file })
            }
            Err(TryLockError::WouldBlock) => Err(Failure::Busy(format!(
                "another nodectl works on this node (pid {holder}). To fix it: wait for it, or `nodectl revert --take-over`"
            ))
            .into()),
            Err(TryLockError::Error(e)) => Err(anyhow!(e).context(format!("could not lock {}", path.display()))),
        }
    }

    /// Tells the nodectl that has the lock to stop, waits until it has, and takes it.
    pub fn take_over(host: &Host, patience: Duration) -> Result<Lock> {
        let (_, holder) = open(&host.path("/run/nodectl/lock"))?;
        let end = Instant::now() + patience;
        let mut told = false;
        loop {
            match Lock::take(host) {
                Err(e) if e.downcast_ref::<Failure>().is_some_and(|f| matches!(f, Failure::Busy(_))) => {
                    if Instant::now() >= end {
                        return Err(e);
                    }
                    // Only a nodectl is signalled: the pid in the file may be an old one's, used anew.
                    if !told && let Some(pid) = holder.parse().ok().filter(|pid| is_nodectl(*pid)) {
                        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM).context("could not signal it")?;
                        told = true;
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
                taken => return taken,
            }
        }
    }
}

fn is_nodectl(pid: u32) -> bool {
    process::read(pid).is_some_and(|p| p.name == "nodectl")
}

/// The lock file and the pid that it names.
fn open(path: &PathBuf) -> Result<(File, String)> {
    let folder = path.parent().unwrap_or(path);
    files::create_directory(folder, 0o700)?;
    // Whoever can open the file can lock it: root alone.
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
        .context("could not close the lock's folder")?;
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("could not open the lock {}", path.display()))?;
    let mut holder = String::new();
    file.read_to_string(&mut holder).context("could not read the lock")?;
    std::io::Seek::rewind(&mut file).context("could not read the lock")?;
    Ok((file, if holder.is_empty() { "unknown".into() } else { holder }))
}
