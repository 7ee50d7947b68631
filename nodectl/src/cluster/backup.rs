//! The backup: every object as it was read, in one file, before the first write.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::change::{Action, Change};
use crate::host::files;

/// Saves what these changes are about to overwrite or delete, and names what they create. Returns the file's path.
pub fn save(directory: &Path, command: &str, at: &str, changes: &[Change]) -> Result<PathBuf> {
    let mut objects: Vec<&Value> = Vec::new();
    let mut seen = BTreeSet::new();
    for change in changes {
        // A Node is changed twice; the first change saw it as it was.
        if seen.insert(&change.target) {
            objects.extend(change.before.as_ref());
        }
    }
    let created: Vec<String> =
        changes.iter().filter(|c| c.action == Action::Create).map(|c| c.target.to_string()).collect();
    let document = json!({"format": 1, "command": command, "at": at, "objects": objects, "created": created});
    let bytes = serde_json::to_vec_pretty(&document).context("could not encode the backup")?;
    let problem = || {
        let shown = directory.display();
        format!(
            "could not save the objects to be changed in {shown}, so nothing was changed. To fix it: name a directory that you may write to with --backup-dir"
        )
    };
    files::create_directory(directory, 0o700).with_context(problem)?;
    let path = free_name(directory, at);
    files::write_atomic(&path, &bytes, 0o600).with_context(problem)?;
    Ok(path)
}

fn free_name(directory: &Path, at: &str) -> PathBuf {
    let digits: String = at.chars().filter(char::is_ascii_alphanumeric).collect();
    let first = directory.join(format!("cluster-{digits}.json"));
    let more = (2..).map(|n: u32| directory.join(format!("cluster-{digits}-{n}.json")));
    std::iter::once(first.clone()).chain(more).find(|path| !files::exists(path)).unwrap_or(first)
}
