//! The one cgroup that a full node lives in: made and removed by the lab, in the machine's cgroup2 hierarchy.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How long killed processes may take to go.
const LIMIT: Duration = Duration::from_secs(5);

/// A node's cgroup. Dropping it kills what is in it and removes it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes the cgroup of a node of the cluster called `cluster` on this machine.
    pub fn make(cluster: &str, node: &str) -> Result<Cgroup> {
        let path = hierarchy()?.join(format!("{}{node}", prefix(cluster)));
        // What a node of that name left whose launcher was killed.
        remove(&path);
        fs::create_dir(&path).with_context(|| {
            format!("the cgroup {} could not be made. To fix it: run as root where cgroup2 is writable", path.display())
        })?;
        Ok(Cgroup { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// To be called when the hierarchy was mounted at another place for this process.
    pub fn moved_to(&mut self, hierarchy: &Path) {
        if let Some(name) = self.path.file_name() {
            self.path = hierarchy.join(name);
        }
    }

    /// The file that kills all its processes when "1" is written to it.
    pub fn killer(&self) -> Result<fs::File> {
        let path = self.path.join("cgroup.kill");
        fs::OpenOptions::new().write(true).open(&path).with_context(|| {
            format!("{} could not be opened. To fix it: use a kernel of 5.14 or later", path.display())
        })
    }
}

/// Removes every cgroup of a cluster, with what still runs in it.
pub fn remove_all(cluster: &str) {
    let Ok(root) = hierarchy() else {
        return;
    };
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix(cluster)) {
            remove(&entry.path());
        }
    }
}

/// What the names of a cluster's cgroups begin with.
fn prefix(cluster: &str) -> String {
    format!("nodectl-{cluster}-")
}

/// Where the machine's cgroup2 hierarchy is mounted: /sys/fs/cgroup, or a folder in it where the older hierarchies are in use.
fn hierarchy() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("the mounts could not be read")?;
    let found = mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    });
    found.context("no cgroup2 hierarchy is mounted. To fix it: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified")
}

/// Kills a cgroup's processes, waits for their end, removes it with its children.
fn remove(path: &Path) {
    // ENOENT: there is none, the usual case.
    let _ = fs::write(path.join("cgroup.kill"), "1");
    let until = Instant::now() + LIMIT;
    while path.exists() {
        remove_tree(path);
        if Instant::now() > until {
            eprintln!("nodectl-lab: the cgroup {} could not be removed: its processes do not end", path.display());
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Removes folders, the deepest first; the files in them are the kernel's.
fn remove_tree(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    // EBUSY: a process in it has not ended yet; the caller tries again.
    let _ = fs::remove_dir(path);
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.path);
    }
}
