//! Files. What is written is either all there or not at all, also after a power cut.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use nix::unistd::{AccessFlags, access};
use sha2::{Digest, Sha256};

use crate::fault;

/// Prefix of temporary files. No runtime reads a configuration of such a name: it has no known suffix.
pub const TEMPORARY_PREFIX: &str = ".nodectl-";

/// The bytes of a file; `None` where there is none.
pub fn read_optional(path: &Path) -> Result<Option<Vec<u8>>> {
    optional(fs::read(path), path, "read")
}

/// The text of a file; `None` where there is none.
pub fn read_text_optional(path: &Path) -> Result<Option<String>> {
    optional(fs::read_to_string(path), path, "read")
}

/// The bytes of a file that was come upon. Nothing is in a FIFO or a device: nobody may ever write to it, or it has no end. Of a
/// file that somebody has named, `--kubeconfig <(...)` say, [`read_optional`] waits for the bytes.
pub fn read_found(path: &Path) -> Result<Option<Vec<u8>>> {
    if is_endless(path) { Ok(Some(Vec::new())) } else { read_optional(path) }
}

/// The text of such a file.
pub fn read_found_text(path: &Path) -> Result<Option<String>> {
    if is_endless(path) { Ok(Some(String::new())) } else { read_text_optional(path) }
}

fn is_endless(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir())
}

/// Whether anything is there, a dangling symbolic link included.
pub fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Size in bytes; `None` where there is no such file.
pub fn size(path: &Path) -> Result<Option<u64>> {
    Ok(optional(fs::metadata(path), path, "look at")?.filter(fs::Metadata::is_file).map(|m| m.len()))
}

/// When a file was last written, seconds since 1970; `None` where there is none.
pub fn modified(path: &Path) -> Result<Option<i64>> {
    Ok(optional(fs::metadata(path), path, "look at")?.map(|m| m.mtime()))
}

/// Permission bits of a file; `None` where there is none.
pub fn mode(path: &Path) -> Result<Option<u32>> {
    Ok(optional(fs::metadata(path), path, "look at")?.map(|m| m.permissions().mode() & 0o7777))
}

/// Names in a directory, sorted by bytes; none where there is no directory.
pub fn list(directory: &Path) -> Result<Vec<String>> {
    let Some(entries) = optional(fs::read_dir(directory), directory, "list")? else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("could not list {}", directory.display()))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// SHA-256 of a file, in hex; `None` where there is none.
pub fn sha256(path: &Path) -> Result<Option<String>> {
    let Some(mut file) = optional(File::open(path), path, "open")? else {
        return Ok(None);
    };
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        let read = file.read(&mut buffer).with_context(|| format!("could not read {}", path.display()))?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
    }
    Ok(Some(hash.finalize().iter().map(|b| format!("{b:02x}")).collect()))
}

/// Whether two files are both there and differ in content.
pub fn differ(one: &Path, other: &Path) -> Result<bool> {
    let (Some(first), Some(second)) = (size(one)?, size(other)?) else { return Ok(false) };
    Ok(first != second || read_optional(one)? != read_optional(other)?)
}

/// Bytes free to root on the file system of `path`, or of its nearest ancestor that exists.
pub fn free_bytes(path: &Path) -> Result<u64> {
    let there = nearest(path);
    let stat = nix::sys::statvfs::statvfs(&there)
        .with_context(|| format!("could not ask how much room there is in {}", there.display()))?;
    Ok(stat.blocks_free().saturating_mul(stat.fragment_size()))
}

/// An error unless something can be created in the directory, or in its nearest ancestor that exists. Nothing is written.
pub fn writable(directory: &Path) -> Result<()> {
    let there = nearest(directory);
    // access(2) also answers EROFS, which permission bits alone would not show to root.
    access(&there, AccessFlags::W_OK | AccessFlags::X_OK)
        .with_context(|| format!("{} cannot be written", there.display()))
}

/// Creates a directory and its ancestors, the last one with this mode; nothing is changed where it is there already.
pub fn create_directory(path: &Path, mode: u32) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fault::point("files.create_directory");
    let context = || format!("could not create the directory {}", path.display());
    fs::create_dir_all(path).with_context(context)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(context)?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Replaces a file: a temporary file in the same directory, fsync, rename, fsync of the directory. The owner of a file that
/// was there is kept.
///
/// The same directory matters beyond atomicity: containerd takes no notice of a network configuration that is renamed into
/// its directory from another one (its watch ignores CREATE events), but it sees the temporary name leave.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    fault::point("files.write");
    let temporary = temporary_beside(path)?;
    let written = write_new(&temporary, bytes, mode, owner(path)).and_then(|()| {
        fault::point("files.write.rename");
        fs::rename(&temporary, path).context("rename")
    });
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.with_context(|| format!("could not write {}", path.display()))?;
    sync_parent(path)
}

/// Removes the temporary files and folders that a killed nodectl left in a directory; returns their names.
pub fn remove_temporaries(directory: &Path) -> Result<Vec<String>> {
    let mut names = list(directory)?;
    names.retain(|name| name.starts_with(TEMPORARY_PREFIX));
    for name in &names {
        let path = directory.join(name);
        if !path.is_symlink() && path.is_dir() {
            remove_directory(&path)?
        } else {
            remove(&path)?
        };
    }
    Ok(names)
}

/// Copies a file over another in the same manner; `mode` replaces the source's permission bits.
pub fn copy_atomic(from: &Path, to: &Path, mode: Option<u32>) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("could not read {}", from.display()))?;
    let mode = match mode {
        Some(mode) => mode,
        None => self::mode(from)?.unwrap_or(0o600),
    };
    write_atomic(to, &bytes, mode)
}

/// Renames a file within its file system and makes it last.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fault::point("files.rename");
    fs::rename(from, to).with_context(|| format!("could not rename {} to {}", from.display(), to.display()))?;
    sync_parent(from)?;
    sync_parent(to)
}

/// Removes a file; true if there was one.
pub fn remove(path: &Path) -> Result<bool> {
    fault::point("files.remove");
    let removed = optional(fs::remove_file(path), path, "remove")?.is_some();
    if removed {
        sync_parent(path)?;
    }
    Ok(removed)
}

/// Removes a directory with all that is in it; true if there was one.
pub fn remove_directory(path: &Path) -> Result<bool> {
    fault::point("files.remove_directory");
    let removed = optional(fs::remove_dir_all(path), path, "remove")?.is_some();
    if removed {
        sync_parent(path)?;
    }
    Ok(removed)
}

/// Flushes a directory, so that what was created, renamed or removed in it lasts.
pub fn sync_directory(directory: &Path) -> Result<()> {
    File::open(directory)
        .and_then(|d| d.sync_all())
        .with_context(|| format!("could not flush the directory {}", directory.display()))
}

fn sync_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => sync_directory(Path::new(".")),
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

fn write_new(path: &Path, bytes: &[u8], mode: u32, owner: Option<(u32, u32)>) -> Result<()> {
    // A process of the same id may have been killed here before.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // The umask has taken bits from the mode given to open(2).
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
    }
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(())
}

fn owner(path: &Path) -> Option<(u32, u32)> {
    fs::metadata(path).ok().map(|m| (m.uid(), m.gid()))
}

fn temporary_beside(path: &Path) -> Result<PathBuf> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let Some(name) = path.file_name() else { bail!("{} names no file", path.display()) };
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    // Its last part is the process id, never a suffix that a runtime looks for.
    let temporary = format!("{TEMPORARY_PREFIX}{}-{number}-{}", name.to_string_lossy(), std::process::id());
    Ok(path.with_file_name(temporary))
}

fn nearest(path: &Path) -> PathBuf {
    path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/")).to_owned()
}

fn optional<T>(result: std::io::Result<T>, path: &Path, what: &str) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e).with_context(|| format!("could not {what} {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn a_pipe_that_was_named_is_read_and_one_that_was_come_upon_is_not() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("kubeconfig");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).expect("a FIFO");
        assert_eq!(read_found(&path).expect("at once"), Some(Vec::new()));
        assert_eq!(read_found_text(&path).expect("at once"), Some(String::new()));
        let named = path.clone();
        let writer = std::thread::spawn(move || fs::write(named, "kind: Config"));
        assert_eq!(read_text_optional(&path).expect("the text").as_deref(), Some("kind: Config"));
        writer.join().expect("a thread").expect("it is written");
    }
}
