//! Mounts that others have left behind.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};

use crate::fault;

/// Every mount point.
pub fn points() -> Result<Vec<String>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("could not read the table of mounts")?;
    Ok(parse(&table).map(str::to_owned).collect())
}

/// The mount points of a table: the fifth field of each line.
fn parse(table: &str) -> impl Iterator<Item = &str> {
    table.lines().filter_map(|line| line.split(' ').nth(4))
}

/// Unmounts whatever is mounted below a folder, innermost first (Calico leaves a cgroup2 at /run/calico/cgroup).
pub fn unmount_below(folder: &Path) -> Result<()> {
    for point in below(&points()?, folder) {
        fault::point("mount.unmount");
        umount2(&point, MntFlags::MNT_DETACH).with_context(|| format!("could not unmount {}", point.display()))?;
    }
    Ok(())
}

/// Mount points below a folder; what was mounted last comes first.
fn below(points: &[String], folder: &Path) -> Vec<PathBuf> {
    let mut inside: Vec<PathBuf> =
        points.iter().map(PathBuf::from).filter(|p| p.starts_with(folder) && p != folder).collect();
    inside.reverse();
    inside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_below_and_the_innermost_first() {
        let table = "1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /run rw - tmpfs t rw\n3 2 0:3 / /run/calico/cgroup rw - cgroup2 c rw\n4 3 0:4 / /run/calico/cgroup/x rw - tmpfs t rw\n5 2 0:5 / /run/calico2 rw - tmpfs t rw\n";
        let points: Vec<String> = parse(table).map(str::to_owned).collect();
        let found = below(&points, Path::new("/run/calico"));
        assert_eq!(found, [PathBuf::from("/run/calico/cgroup/x"), PathBuf::from("/run/calico/cgroup")]);
    }
}
