//! Moving files and folders aside, and back. Across file systems this is a copy and a removal.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use anyhow::{Context, Result};

use super::files;
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
    let removed = if is_folder(path) { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.with_context(|| format!("could not remove {}", path.display()))
}

/// Puts back what was moved aside, unless something is there by now.
pub fn put_back(aside: &Path, path: &Path) -> Result<()> {
    if files::exists(path) || !files::exists(aside) {
        return Ok(());
    }
    transfer(aside, path)
}

/// Copies under a temporary name, then renames: a crash never leaves half of it under the final name.
fn transfer(from: &Path, to: &Path) -> Result<()> {
    fault::point("backup.copy");
    let parent = to.parent().unwrap_or(Path::new("/"));
    files::create_directory(parent, 0o700)?;
    let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let temporary = parent.join(format!(".nodectl-{name}"));
    if files::exists(&temporary) {
        let _ = if is_folder(&temporary) { fs::remove_dir_all(&temporary) } else { fs::remove_file(&temporary) };
    }
    copy(from, &temporary).with_context(|| format!("could not copy {} to {}", from.display(), to.display()))?;
    fs::rename(&temporary, to).with_context(|| format!("could not put {} in place", to.display()))?;
    files::sync_directory(parent)
}

fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.is_dir())
}

/// Content, permission bits and owner; special files (sockets) are left out: nothing could be put back of them.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    if meta.is_dir() {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    } else if meta.is_symlink() {
        return std::os::unix::fs::symlink(fs::read_link(from)?, to);
    } else if meta.is_file() {
        fs::copy(from, to)?;
        fs::File::open(to)?.sync_all()?;
    } else {
        return Ok(());
    }
    use std::os::unix::fs::MetadataExt;
    fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    chown(to, Some(meta.uid()), Some(meta.gid()))
}
