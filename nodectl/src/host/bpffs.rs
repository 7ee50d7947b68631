//! Pinned eBPF objects: files that hold a program, a map or an attachment for as long as they exist.

use std::path::Path;

use anyhow::{Context, Result};

use super::{Host, files};
use crate::fault;

/// Removes pins, files and whole folders of them; what is not there is passed over. An attachment whose only holder is its
/// pin ends with it.
pub fn unpin(host: &Host, paths: &[String]) -> Result<()> {
    for path in paths {
        let path = host.path(path);
        if !files::exists(&path) {
            continue;
        }
        fault::point("bpffs.unpin");
        remove(&path).with_context(|| format!("could not remove the pin {}", path.display()))?;
    }
    // A folder that held nothing else goes too; iproute2's own has been there before and stays.
    let folders: std::collections::BTreeSet<_> = paths.iter().filter_map(|path| Path::new(path).parent()).collect();
    for folder in folders.into_iter().filter(|folder| !folder.ends_with("tc/globals")) {
        let _ = std::fs::remove_dir(host.path(folder));
    }
    Ok(())
}

/// Not files::remove: a bpf file system knows no fsync.
fn remove(path: &Path) -> std::io::Result<()> {
    if path.is_dir() && !path.is_symlink() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
}
