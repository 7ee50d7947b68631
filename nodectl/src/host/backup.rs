//! Moving files and folders aside, and back. Across file systems this is a copy and a removal.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{files, mount};
use crate::fault;

/// Moves a file or folder to `aside`; nothing to do where it is gone. A copy that holds all of it was made before a crash and
/// stays as it is; beside one that does not, this takes a name of its own (`NAME.1`), so that neither is lost.
pub fn move_aside(path: &Path, aside: &Path) -> Result<()> {
    if !files::exists(path) {
        return Ok(());
    }
    if !is_special(path) && !holds(aside, path) {
        let free = free_name(aside);
        if move_within(path, &free)? {
            return Ok(());
        }
        transfer(path, &free)?;
    }
    purge(path)
}

/// Removes a file or folder, if it is there. Of a mount point the content.
pub fn purge(path: &Path) -> Result<()> {
    fault::point("backup.remove");
    remove(path).with_context(|| format!("could not remove {}", path.display()))?;
    path.parent().filter(|parent| parent.is_dir()).map_or(Ok(()), files::sync_directory)
}

/// Moves within a file system, which needs no room on it. False where it is not one, or where this is a mount point.
fn move_within(path: &Path, aside: &Path) -> Result<bool> {
    let (from, to) = (path.parent().unwrap_or(Path::new("/")), aside.parent().unwrap_or(Path::new("/")));
    files::create_directory(to, 0o700)?;
    fault::point("backup.rename");
    if fs::rename(path, aside).is_err() {
        return Ok(false);
    }
    files::sync_directory(to)?;
    files::sync_directory(from)?;
    Ok(true)
}

/// The name, or the first with a number behind it that nothing bears.
fn free_name(aside: &Path) -> PathBuf {
    let numbered = |n: u32| {
        let mut name = aside.as_os_str().to_owned();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    };
    if !files::exists(aside) {
        return aside.to_owned();
    }
    (1..).map(numbered).find(|path| !files::exists(path)).unwrap_or_else(|| aside.to_owned())
}

/// A socket, a FIFO, a device: nothing of it can be kept.
fn is_special(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| !(m.is_file() || m.is_dir() || m.is_symlink()))
}

/// Whether a copy has all that is in a file or folder, of which a part may be removed already.
fn holds(copy: &Path, path: &Path) -> bool {
    if !is_folder(path) || !is_folder(copy) {
        return is_same(copy, path);
    }
    let is_kept = |name: &String| {
        let (copy, path) = (copy.join(name), path.join(name));
        is_special(&path) || holds(&copy, &path)
    };
    files::list(path).is_ok_and(|names| names.iter().all(is_kept))
}

/// Removes a file or folder, if it is there. What is a file system of its own cannot go: it stays, empty.
fn remove(path: &Path) -> std::io::Result<()> {
    let is_empty = || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    match if is_folder(path) { fs::remove_dir_all(path) } else { fs::remove_file(path) } {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy && is_empty() => Ok(()),
        removed => removed,
    }
}

/// Puts back what was moved aside, unless something is there by now.
pub fn put_back(aside: &Path, path: &Path) -> Result<()> {
    if files::exists(path) || !files::exists(aside) {
        return Ok(());
    }
    transfer(aside, path)
}

/// Copies a file or folder to `copy`. One that exists already stays as it is: it was made before a crash.
pub fn keep(path: &Path, copy: &Path) -> Result<()> {
    if !files::exists(path) || files::exists(copy) {
        return Ok(());
    }
    transfer(path, copy)
}

/// Makes a file or folder what its copy is; one that is the same is not touched.
pub fn restore(copy: &Path, path: &Path) -> Result<()> {
    if !files::exists(copy) || is_same(copy, path) {
        return Ok(());
    }
    mount::unmount_below(path)?;
    transfer(copy, path)
}

fn is_same(a: &Path, b: &Path) -> bool {
    let (Ok(meta), Ok(other)) = (fs::symlink_metadata(a), fs::symlink_metadata(b)) else { return false };
    if meta.mode() != other.mode() {
        return false;
    }
    if meta.is_dir() {
        let names = |folder: &Path| {
            let mut names = files::list(folder).unwrap_or_default();
            names.sort_unstable();
            names
        };
        let inside = names(a);
        return inside == names(b) && inside.iter().all(|name| is_same(&a.join(name), &b.join(name)));
    }
    match meta.is_symlink() {
        true => fs::read_link(a).ok() == fs::read_link(b).ok(),
        false => !meta.is_file() || fs::read(a).ok() == fs::read(b).ok(),
    }
}

/// Copies under a temporary name, then renames: a crash never leaves half of it under the final name.
fn transfer(from: &Path, to: &Path) -> Result<()> {
    fault::point("backup.copy");
    let parent = to.parent().unwrap_or(Path::new("/"));
    files::create_directory(parent, 0o700)?;
    let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let temporary = parent.join(format!(".nodectl-{name}"));
    let _ = remove(&temporary);
    copy(from, &temporary).with_context(|| format!("could not copy {} to {}", from.display(), to.display()))?;
    if is_folder(to) || is_folder(&temporary) {
        // Neither a folder with something in it nor a folder and a file take each other's place by a rename.
        remove(to).with_context(|| format!("could not remove {}", to.display()))?;
    }
    fs::rename(&temporary, to).with_context(|| format!("could not put {} in place", to.display()))?;
    files::sync_directory(parent)
}

fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.is_dir())
}

/// Content, permission bits and owner; special files (sockets) are left out: nothing could be put back of them. So is what is
/// mounted in a folder (Calico's cgroup2).
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    if meta.is_dir() {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let (inner, target) = (entry.path(), to.join(entry.file_name()));
            let found = fs::symlink_metadata(&inner)?;
            if found.is_dir() && found.dev() != meta.dev() {
                fs::create_dir(&target)?;
                continue;
            }
            copy(&inner, &target)?;
        }
    } else if meta.is_symlink() {
        return std::os::unix::fs::symlink(fs::read_link(from)?, to);
    } else if meta.is_file() {
        fs::copy(from, to)?;
        fs::File::open(to)?.sync_all()?;
    } else {
        return Ok(());
    }
    fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    chown(to, Some(meta.uid()), Some(meta.gid()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn nothing_that_waits_aside_is_lost() {
        // Across file systems, where it is a copy, and within one.
        for near in [true, false] {
            let here = tempfile::tempdir_in("/dev/shm").expect("a directory");
            let there = tempfile::tempdir_in(if near { "/dev/shm" } else { "/tmp" }).expect("a directory");
            let (path, aside) = (here.path().join("token"), there.path().join("etc/token"));
            for text in ["one", "two", "two", "three"] {
                fs::write(&path, text).expect("a file");
                move_aside(&path, &aside).expect("it moves");
                assert!(!path.exists());
            }
            let mut kept: Vec<(String, String)> = files::list(aside.parent().unwrap())
                .unwrap()
                .into_iter()
                .map(|name| (fs::read_to_string(there.path().join("etc").join(&name)).unwrap(), name))
                .collect();
            kept.sort();
            let texts: Vec<&str> = kept.iter().map(|(text, _)| text.as_str()).collect();
            assert_eq!(texts.first(), Some(&"one"));
            assert!(texts.contains(&"two") && texts.contains(&"three"), "{kept:?}");
        }
    }

    #[test]
    fn a_folder_that_is_half_removed_is_not_copied_again() {
        let here = tempfile::tempdir_in("/dev/shm").expect("a directory");
        let there = tempfile::tempdir_in("/tmp").expect("a directory");
        let (path, aside) = (here.path().join("calico"), there.path().join("calico"));
        fs::create_dir(&path).expect("a directory");
        fs::write(path.join("nodename"), "n1").expect("a file");
        fs::write(path.join("mtu"), "1450").expect("a file");
        let _socket = UnixListener::bind(path.join("bird.ctl")).expect("a socket");
        keep(&path, &aside).expect("a copy");
        fs::remove_file(path.join("mtu")).expect("a kill came here");
        move_aside(&path, &aside).expect("it goes");
        assert!(!path.exists());
        assert_eq!(files::list(there.path()).unwrap(), ["calico"]);
        assert_eq!(files::list(&aside).unwrap(), ["mtu", "nodename"]);
    }

    #[test]
    fn a_socket_goes_though_nothing_of_it_can_be_kept() {
        let here = tempfile::tempdir_in("/dev/shm").expect("a directory");
        let there = tempfile::tempdir_in("/tmp").expect("a directory");
        let path = here.path().join("csi.sock");
        let _socket = UnixListener::bind(&path).expect("a socket");
        move_aside(&path, &there.path().join("csi.sock")).expect("it goes");
        assert!(!files::exists(&path) && files::list(there.path()).unwrap().is_empty());
    }
}
