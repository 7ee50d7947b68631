//! The machine's identity.

use std::path::Path;

use anyhow::{Context, Result};

use crate::facts::Machine;
use crate::host::files;

/// Identity of this boot: everything the kernel held before another one is gone.
pub fn boot_id() -> Result<String> {
    read("/proc/sys/kernel/random/boot_id")
}

/// Kernel release, as in `uname -r`.
pub fn kernel() -> Result<String> {
    read("/proc/sys/kernel/osrelease")
}

/// Host name.
pub fn hostname() -> Result<String> {
    read("/proc/sys/kernel/hostname")
}

/// Whether no program can be run from a directory, or from where it will be made: its file system is mounted noexec.
pub fn is_noexec(directory: &Path) -> Result<bool> {
    let there = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let stat = nix::sys::statvfs::statvfs(there)
        .with_context(|| format!("could not ask how {} is mounted", there.display()))?;
    Ok(stat.flags().contains(nix::sys::statvfs::FsFlags::ST_NOEXEC))
}

/// Who runs this: the user who logged in or called sudo, else the unit of systemd, else root.
pub fn operator() -> String {
    let sudo = std::env::var("SUDO_USER").ok().filter(|name| !name.is_empty());
    let login = || {
        let uid: u32 = read("/proc/self/loginuid").ok()?.parse().ok()?;
        // What no login has begun has (uid_t) -1.
        (uid != u32::MAX).then(|| user(uid))
    };
    let unit = || {
        let groups = read("/proc/self/cgroup").ok()?;
        unit_of(&groups)
    };
    sudo.or_else(login).or_else(unit).unwrap_or_else(|| user(nix::unistd::geteuid().as_raw()))
}

/// The service of a process, by its /proc/PID/cgroup: of the unified hierarchy, or of systemd's own one beside the older ones (EL 8).
fn unit_of(groups: &str) -> Option<String> {
    let path = |prefix| groups.lines().find_map(|line| line.split_once(prefix)).map(|(_, path)| path);
    let mut names =
        [path("0::"), path(":name=systemd:")].into_iter().flatten().filter_map(|path| path.rsplit('/').next());
    names.find(|name| name.ends_with(".service")).map(str::to_owned)
}

fn user(uid: u32) -> String {
    let found = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten();
    found.map_or_else(|| format!("uid {uid}"), |user| user.name)
}

/// The machine, with the room in `directories` (absolute paths as seen from here, and the name to report each under).
pub fn observe(directories: &[(String, std::path::PathBuf)]) -> Result<Machine> {
    let mut machine = Machine {
        hostname: hostname()?,
        kernel: kernel()?,
        boot_id: boot_id()?,
        uid: nix::unistd::geteuid().as_raw(),
        ..Machine::default()
    };
    for (name, path) in directories {
        match files::free_bytes(path) {
            Ok(bytes) => {
                machine.free_bytes.insert(name.clone(), bytes);
            }
            Err(error) => {
                machine.unwritable.insert(name.clone(), format!("{error:#}"));
            }
        }
        if let Err(error) = files::writable(path) {
            machine.unwritable.insert(name.clone(), format!("{error:#}"));
        }
    }
    Ok(machine)
}

fn read(path: &str) -> Result<String> {
    let text = std::fs::read_to_string(Path::new(path)).with_context(|| format!("could not read {path}"))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_of_a_process_is_found_in_either_hierarchy() {
        assert_eq!(unit_of("0::/system.slice/cni-migrate.service\n").as_deref(), Some("cni-migrate.service"));
        let older = "12:pids:/system.slice/x\n1:name=systemd:/system.slice/cni-migrate.service\n";
        assert_eq!(unit_of(older).as_deref(), Some("cni-migrate.service"));
        assert_eq!(unit_of("0::/\n1:name=systemd:/user.slice/session-1.scope\n"), None);
    }
}
