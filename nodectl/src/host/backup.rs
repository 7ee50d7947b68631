//! Moving files and folders aside, and back. Across file systems this is a copy and a removal.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use anyhow::{Context, Result};

use super::{files, mount};
use crate::fault;

/// Moves a file or folder to `aside`; nothing to do where it is gone. A copy that exists already stays as it is: it was
/// made before a crash.
pub fn move_aside(path: &Path, aside: &Path) -> Result<()> {
    if !files::exists(path) {
        return Ok(());
    }
    if !files::exists(aside) {
        transfer(path, aside)?;
    }
    fault::point("backup.remove");
    remove(path).with_context(|| format!("could not remove {}", path.display()))
}

/// Removes a file or folder, if it is there.
fn remove(path: &Path) -> std::io::Result<()> {
    match if is_folder(path) { fs::remove_dir_all(path) } else { fs::remove_file(path) } {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
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
