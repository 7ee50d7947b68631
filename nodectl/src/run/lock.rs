//! One nodectl at a time changes a node.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Folders, drafts};
use crate::failure::Failure;
use crate::host::{Host, files, locks, process};

/// The lock of this node, held as long as this lives. It is a flock: a killed process leaves none behind.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, and removes what a killed nodectl had begun to write; busy where another nodectl has it.
    pub fn take(host: &Host) -> Result<Lock> {
        let path = host.path("/run/nodectl/lock");
        let (mut file, holder) = open(&path)?;
        match file.try_lock() {
            Ok(()) => {
                // The pid is for people and for --take-over; the lock itself is the kernel's.
                file.set_len(0)
                    .and_then(|()| write!(file, "{}", std::process::id()))
                    .context("could not write the lock")?;
                // They are in nobody's way: neither a way back nor a boot fails for them.
                if let Err(error) = drafts::sweep(host) {
                    tracing::warn!("what a killed nodectl had begun to write is left: {error:#}");
                }
                Ok(Lock { _file: file })
            }
            Err(TryLockError::WouldBlock) => {
                // A cleanup has nothing that could be taken over.
                let open = Folders::at(host).open_run().ok().flatten().is_some();
                let or = if open { ", or `nodectl revert --take-over`" } else { "" };
                let text = format!("another nodectl works on this node (pid {holder}). To fix it: wait for it{or}");
                Err(Failure::Busy(text).into())
            }
            Err(TryLockError::Error(e)) => Err(anyhow!(e).context(format!("could not lock {}", path.display()))),
        }
    }

    /// The nodectl that holds the lock, as the kernel tells: the pid in the file may be an old one's. The lock is not touched,
    /// so that looking keeps nobody from taking it.
    pub fn holder(host: &Host) -> Result<Option<u32>> {
        let path = host.path("/run/nodectl/lock");
        Ok(locks::holders(&path)?.into_iter().find(|pid| is_nodectl(*pid)))
    }

    /// Tells the nodectl that has the lock to stop, waits until it has, and takes it.
    pub fn take_over(host: &Host, patience: Duration) -> Result<Lock> {
        let end = Instant::now() + patience;
        let mut told = None;
        loop {
            match Lock::take(host) {
                Err(e) if e.downcast_ref::<Failure>().is_some_and(|f| matches!(f, Failure::Busy(_))) => {
                    if Instant::now() >= end {
                        return Err(e);
                    }
                    // Asked each time: another nodectl may have taken it since. Only a nodectl is signalled.
                    if told.is_none()
                        && let Some(pid) = Lock::holder(host)?
                    {
                        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM).context("could not signal it")?;
                        told = Some(pid);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_held_as_long_as_it_lives() {
        // A tmpfs, as /run is: a layered file system has numbers of its own.
        let root = tempfile::tempdir_in("/dev/shm").expect("a directory");
        let host = Host::new(root.path());
        assert_eq!(Lock::holder(&host).expect("no lock"), None);
        let lock = Lock::take(&host).expect("the lock");
        let path = root.path().join("run/nodectl/lock");
        assert_eq!(locks::holders(&path).expect("locks"), [std::process::id()]);
        drop(lock);
        assert_eq!(locks::holders(&path).expect("locks"), Vec::<u32>::new());
    }

    #[test]
    fn whoever_takes_the_lock_removes_drafts_and_nothing_else() {
        let root = tempfile::tempdir().expect("a directory");
        // No process has this id: the kernel's highest is 2^22.
        let drafts = [
            "var/lib/nodectl/.nodectl-open-1-846",
            "var/lib/nodectl/journal/.nodectl-1.jsonl-0-846",
            "var/lib/nodectl/cleanups/.nodectl-1.open.json-0-846",
            "var/lib/nodectl/backup/1/opt/cni/bin/.nodectl-bridge",
            "var/lib/cni/networks/cbr0/.nodectl-10.244.1.2-0-846",
            "var/lib/cni-shim/state.json.99999999.tmp",
            "run/motd.d/.nodectl-85-nodectl.motd-0-846",
        ];
        let others = [
            "var/lib/nodectl/open",
            "var/lib/nodectl/journal/1.jsonl",
            "var/lib/nodectl/backup/1/opt/cni/bin/bridge",
            "var/lib/cni/networks/cbr0/10.244.1.2",
            "var/lib/cni-shim/state.json",
            "run/motd.d/.hidden",
        ];
        let is_there = |name: &&str| root.path().join(name).exists();
        for name in drafts.iter().chain(&others) {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, "x").expect("a file");
        }
        let _lock = Lock::take(&Host::new(root.path())).expect("the lock");
        assert_eq!(drafts.iter().filter(|name| is_there(name)).collect::<Vec<_>>(), Vec::<&&str>::new());
        assert_eq!(others.iter().filter(|name| !is_there(name)).collect::<Vec<_>>(), Vec::<&&str>::new());
    }
}
