//! flock(2) locks. An attachment's lock is inherited by the delegates, so it stays taken until the last of them is gone,
//! even if the shim is killed. That is why nothing here unlocks: descriptors are closed.

use crate::{Paths, file};
use cni_spec::error::{self, Error};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A lock that is held until this value and all who inherited it are gone.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Lets child processes started from now on hold the lock too (all of this process: of a caller with threads, any).
    pub fn inherit(&self) -> Result<(), Error> {
        fcntl(&self.file, FcntlArg::F_SETFD(FdFlag::empty())).map(drop).map_err(Error::io("share the lock", &self.path))
    }

    /// Removes the lock file of an attachment that is gone, and releases the lock.
    pub fn remove(self) {
        let _ = file::remove(&self.path);
    }

    fn is_current(&self) -> bool {
        // Between our open and our lock, another holder may have removed the file: then we lock what nobody else sees.
        match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(ours), Ok(named)) => (ours.dev(), ours.ino()) == (named.dev(), named.ino()),
            _ => false,
        }
    }
}

/// Takes an attachment's lock; `None` if it is still taken after `wait`.
pub fn attachment(paths: &Paths, container_id: &str, ifname: &str, wait: Duration) -> Result<Option<Lock>, Error> {
    let path = paths.attachment_lock(container_id, ifname);
    take(&path, true, wait)
}

/// The error of a call that has waited in vain for an attachment's lock.
pub fn busy(paths: &Paths, container_id: &str, ifname: &str) -> Error {
    let path = paths.attachment_lock(container_id, ifname);
    let why = format!(
        "a process holds {}. To fix it: see with fuser(1) which, if trying again does not help",
        path.display()
    );
    Error::new(error::TRY_LATER, format!("another call for {ifname} of {container_id} is still at work"), why)
}

/// Removes the lock files of attachments that have neither a record nor a pending DEL: a killed ADD leaves one. Says whether
/// all were free: no call, and no plugin that one has left behind, is at work.
pub fn sweep(paths: &Paths) -> Result<bool, Error> {
    let dir = paths.state_lock().parent().map(Path::to_owned).unwrap_or_default();
    let Ok(entries) = std::fs::read_dir(&dir) else { return Ok(true) };
    let mut all_free = true;
    for path in entries.flatten().map(|entry| entry.path()) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".lock")) else { continue };
        let file = format!("{name}.json");
        match take(&path, true, Duration::ZERO)? {
            Some(lock) if !paths.attachments().join(&file).exists() && !paths.pendings().join(&file).exists() => {
                lock.remove();
            }
            lock => all_free &= lock.is_some(),
        }
    }
    Ok(all_free)
}

/// Takes the lock of the routing state; code 11 if it is still taken after `wait`.
pub fn state(paths: &Paths, exclusive: bool, wait: Duration) -> Result<Lock, Error> {
    let path = paths.state_lock();
    take(&path, exclusive, wait)?.ok_or_else(|| {
        Error::new(
            error::TRY_LATER,
            format!("the lock {} is taken", path.display()),
            "a change of the state takes milliseconds. To fix it: see with fuser(1) who holds it",
        )
    })
}

fn take(path: &Path, exclusive: bool, wait: Duration) -> Result<Option<Lock>, Error> {
    let until = Instant::now() + wait;
    let mut nap = Duration::from_micros(500);
    loop {
        let lock = open(path).map_err(Error::disk("open", path))?;
        loop {
            let taken = if exclusive { lock.file.try_lock() } else { lock.file.try_lock_shared() };
            match taken {
                Ok(()) if lock.is_current() => return Ok(Some(lock)),
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() >= until => return Ok(None),
                Err(TryLockError::WouldBlock) => sleep(nap),
                Err(TryLockError::Error(cause)) => return Err(Error::io("lock", path)(cause)),
            }
            nap = (nap * 2).min(Duration::from_millis(5));
        }
    }
}

fn open(path: &Path) -> std::io::Result<Lock> {
    let opened = file::with_parent(path, || {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
    });
    match (opened, path.parent()) {
        // A DEL must work on a full disk. A lock file that cannot be made is nobody's, so its directory does as well.
        (Err(cause), Some(parent)) if matches!(cause.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            Ok(Lock { file: File::open(parent).map_err(|_| cause)?, path: parent.to_owned() })
        }
        (opened, _) => Ok(Lock { file: opened?, path: path.to_owned() }),
    }
}
