//! The cache of attachments: /var/lib/cni/results.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::chain::Attachment;
use super::conflist::ConfList;

/// Where an attachment's entry is.
pub fn file(folder: &Path, network: &str, attachment: &Attachment) -> PathBuf {
    folder.join(format!("{network}-{}-{}", attachment.container, attachment.interface))
}

/// Writes an entry, in place as libcni does.
pub fn add(folder: &Path, list: &ConfList, attachment: &Attachment, result: &Value) -> Result<()> {
    let entry = json!({
        "kind": "cniCacheV1",
        "containerId": attachment.container,
        "config": STANDARD.encode(&list.source),
        "ifName": attachment.interface,
        "networkName": list.name,
        "netns": attachment.netns,
        "cniArgs": attachment.arguments,
        "capabilityArgs": attachment.capabilities,
        "result": result,
    });
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("{} could not be made", folder.display()))?;
    let path = file(folder, &list.name, attachment);
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(entry.to_string().as_bytes()))
        .with_context(|| format!("failed to set network {:?} cached result", list.name))
}

/// The cached result, if there is an entry that can be read.
pub fn result(folder: &Path, network: &str, attachment: &Attachment) -> Option<Value> {
    let text = fs::read_to_string(file(folder, network, attachment)).ok()?;
    let entry: Value = serde_json::from_str(&text).ok()?;
    entry.get("result").cloned()
}

/// Removes an entry.
pub fn remove(folder: &Path, network: &str, attachment: &Attachment) {
    // ENOENT: an attachment that was never completed has none.
    let _ = fs::remove_file(file(folder, network, attachment));
}
