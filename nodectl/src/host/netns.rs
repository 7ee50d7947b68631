//! Network namespaces: acting in one that exists, and making one of our own.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use super::Host;
use crate::fault;

/// Where the namespaces of our own are bound, as `ip netns` does it.
const DIRECTORY: &str = "/run/netns";

/// Runs `act` in the network namespace at `path`, in a thread of its own: the caller's thread never leaves its namespace, even
/// if `act` fails.
pub fn enter<T, F>(path: &Path, act: F) -> Result<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let file = File::open(path).with_context(|| format!("could not open the network namespace {}", path.display()))?;
    let shown = path.display().to_string();
    in_thread(move || -> Result<T> {
        setns(&file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("could not enter the network namespace {shown}"))?;
        Ok(act())
    })?
}

/// Starts `act` in a thread in the network namespace at `path` and does not wait for it.
pub fn spawn<F>(path: &Path, act: F) -> Result<std::thread::JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    let file = File::open(path).with_context(|| format!("could not open the network namespace {}", path.display()))?;
    let shown = path.display().to_string();
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let entered = setns(&file, CloneFlags::CLONE_NEWNET);
        let is_in = entered.is_ok();
        if tell.send(entered).is_ok() && is_in {
            act();
        }
    });
    let entered = told.recv().context("a thread in another network namespace was lost")?;
    entered.with_context(|| format!("could not enter the network namespace {shown}"))?;
    Ok(thread)
}

/// Paths of the other network namespaces that processes or mounts keep, one each.
pub fn others() -> Result<Vec<PathBuf>> {
    let own = inode(Path::new("/proc/thread-self/ns/net"))?;
    let processes = std::fs::read_dir("/proc").context("could not list /proc")?;
    let is_number = |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let of_processes = processes.filter_map(|entry| {
        let entry = entry.ok()?;
        is_number(&entry.file_name()).then(|| entry.path().join("ns/net"))
    });
    let bound = std::fs::read_dir(DIRECTORY).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let mut seen = std::collections::HashSet::from([own]);
    // A process that ends meanwhile takes its path with it.
    Ok(of_processes.chain(bound).filter(|path| inode(path).is_ok_and(|inode| seen.insert(inode))).collect())
}

/// TCP segments that were sent again from the calling thread's network namespace; `None` where the kernel does not say.
pub fn retransmitted_segments() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").ok()?;
    let mut rows = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let place = rows.next()?.split(' ').position(|name| name == "RetransSegs")?;
    rows.next()?.split(' ').nth(place)?.parse().ok()
}

fn inode(path: &Path) -> Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).with_context(|| format!("could not look at {}", path.display()))?;
    Ok((meta.dev(), meta.ino()))
}

/// Makes a network namespace bound under /run/netns, with loopback up, and returns its path as the node sees it. One of that
/// name that a crash left behind is replaced.
pub fn create(host: &Host, name: &str) -> Result<String> {
    delete(host, name)?;
    fault::point("netns.create");
    let path = path_of(host, name);
    let context = format!("could not make the network namespace {}", path.display());
    let target = path.clone();
    let made = in_thread(move || -> Result<()> {
        if let Some(directory) = target.parent() {
            std::fs::create_dir_all(directory)?;
        }
        File::create_new(&target)?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        let none: Option<&str> = None;
        mount(Some("/proc/thread-self/ns/net"), &target, none, MsFlags::MS_BIND, none)?;
        super::netlink::set_link("lo", &super::netlink::LinkChange { up: true, ..Default::default() })
    })?;
    if made.is_err() {
        let _ = delete(host, name);
    }
    made.context(context)?;
    Ok(Path::new(DIRECTORY).join(name).to_string_lossy().into_owned())
}

/// Takes away a network namespace that [`create`] made; nothing happens where there is none.
pub fn delete(host: &Host, name: &str) -> Result<()> {
    let path = path_of(host, name);
    if !super::files::exists(&path) {
        return Ok(());
    }
    fault::point("netns.delete");
    // Not mounted where a crash came between the file and the mount.
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    std::fs::remove_file(&path).with_context(|| format!("could not remove {}", path.display()))
}

fn path_of(host: &Host, name: &str) -> PathBuf {
    host.path(DIRECTORY).join(name)
}

fn in_thread<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    std::thread::spawn(act).join().map_err(|_| anyhow!("a thread in another network namespace was lost"))
}
