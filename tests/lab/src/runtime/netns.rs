//! Network namespaces of pods, kept by a bind mount as containerd does.

use std::fs;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{NSFS_MAGIC, statfs};

/// Makes a namespace at /run/netns/cni-<uuid>; answers its path.
pub fn create() -> Result<String> {
    let uuid =
        fs::read_to_string("/proc/sys/kernel/random/uuid").context("no random name for the network namespace")?;
    let path = format!("/run/netns/cni-{}", uuid.trim());
    fs::create_dir_all("/run/netns").context("/run/netns could not be made")?;
    fs::write(&path, "").with_context(|| format!("{path} could not be made"))?;
    let target = path.clone();
    // A thread of its own enters the new namespace and ends; the mount keeps the namespace.
    let made = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).context("a new network namespace was refused")?;
        mount(Some("/proc/thread-self/ns/net"), target.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("the network namespace could not be kept at {target}"))
    });
    made.join().unwrap_or_else(|_| Err(anyhow!("the thread that makes namespaces panicked")))?;
    Ok(path)
}

/// True when nothing keeps a namespace at the path: it was removed, or the node has booted since.
pub fn is_closed(path: &str) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC).then_some(()).is_none()
}

/// Removes a namespace.
pub fn remove(path: &str) -> Result<()> {
    if !is_closed(path) {
        umount2(path, MntFlags::MNT_DETACH).with_context(|| format!("failed to umount ns {path}"))?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{path} could not be removed"))
        }
        _ => Ok(()),
    }
}
