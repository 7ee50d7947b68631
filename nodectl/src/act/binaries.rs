//! Copies of the plugin binaries that an agent's installer overwrites with its own builds.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::Context;
use crate::host::files;
use crate::step::Before;

pub(super) fn before(cx: &mut Context, dir: &str, names: &[String]) -> Result<Before> {
    let mut hashes = BTreeMap::new();
    for name in names {
        if let Some(hash) = files::sha256(&cx.host.path(Path::new(dir).join(name)))? {
            hashes.insert(name.clone(), hash);
        }
    }
    Ok(Before::Binaries { hashes })
}

pub(super) fn apply(cx: &mut Context, dir: &str, names: &[String]) -> Result<Value> {
    let folder = cx.run.backup.join("bin");
    files::create_directory(&folder, 0o700)?;
    let mut kept = 0;
    for name in names {
        let from = cx.host.path(Path::new(dir).join(name));
        // A copy that exists was made before a crash; what lies in the directory now may be the installer's already.
        if files::exists(&from) && !files::exists(&folder.join(name)) {
            files::copy_atomic(&from, &folder.join(name), None)?;
            kept += 1;
        }
    }
    Ok(json!({ "kept": kept }))
}

/// Puts back what differs. A binary in use keeps running: the copy is renamed over it.
pub(super) fn undo(cx: &mut Context, dir: &str, before: &Before) -> Result<()> {
    let Before::Binaries { hashes } = before else { return Ok(()) };
    for (name, hash) in hashes {
        let (here, copy) = (cx.host.path(Path::new(dir).join(name)), cx.run.backup.join("bin").join(name));
        if files::exists(&copy) && files::sha256(&here)?.as_ref() != Some(hash) {
            files::copy_atomic(&copy, &here, None)?;
        }
    }
    Ok(())
}
