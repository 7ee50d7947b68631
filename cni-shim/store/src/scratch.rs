//! flannel's scratch file: the configuration that its ADD gave to the bridge plugin, and all that its DEL goes by.
//!
//! flannel's plugin removes the file even when the DEL that it delegated has failed; the next DEL then does nothing and
//! succeeds, and the pod's address stays reserved for ever. So the shim keeps a copy and puts it back.

use crate::record::Record;
use crate::{Paths, file};
use cni_spec::chain::PluginCall;
use cni_spec::error;
use serde::de::IgnoredAny;
use serde_json::Value;
use std::path::PathBuf;

/// Where a flannel plugin keeps its scratch file of a sandbox; `None` for other plugins.
pub fn path(paths: &Paths, plugin: &PluginCall, container_id: &str) -> Option<PathBuf> {
    let dir = plugin.config.get("dataDir").and_then(Value::as_str).unwrap_or("/var/lib/cni/flannel");
    (plugin.kind == "flannel").then(|| paths.node(dir).join(container_id))
}

fn path_of(paths: &Paths, record: &Record) -> Option<PathBuf> {
    let mut plugins = record.del.iter().flat_map(|list| &list.plugins);
    plugins.find_map(|plugin| path(paths, plugin, &record.container_id))
}

/// Reads a scratch file; `None` if it is missing or torn.
pub fn read(path: &std::path::Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let is_whole = text.trim_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(&text).is_ok();
    is_whole.then_some(text)
}

/// Copies the scratch file into the record. Says whether the record has changed.
pub fn save(paths: &Paths, record: &mut Record) -> bool {
    let found = path_of(paths, record).and_then(|path| read(&path));
    let changed = found.is_some() && found != record.flannel_scratch;
    record.flannel_scratch = found.or(record.flannel_scratch.take());
    changed
}

/// Puts the scratch file back from the record if it is missing or torn.
pub fn restore(paths: &Paths, record: &Record) {
    if let (Some(path), Some(text)) = (path_of(paths, record), &record.flannel_scratch)
        && read(&path).is_none()
        && let Err(cause) = file::write(&path, text.as_bytes(), false)
    {
        error::log(&cause);
    }
}
