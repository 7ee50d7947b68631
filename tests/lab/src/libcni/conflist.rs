//! Reading network configuration lists.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

/// The versions this libcni knows, oldest first.
const VERSIONS: [&str; 8] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", ""];

/// A loaded configuration list.
#[derive(Debug, Clone)]
pub struct ConfList {
    /// The network's name.
    pub name: String,
    /// The version that all plugins are called with.
    pub version: String,
    /// Each plugin's own configuration, as written.
    pub plugins: Vec<Map<String, Value>>,
    /// The bytes of the file.
    pub source: String,
}

impl ConfList {
    /// True when the list's version is at least `version`.
    pub fn is_at_least(&self, version: &str) -> bool {
        rank(&self.version) >= rank(version)
    }
}

/// Loads the first configuration of a folder, by name; a bad first file is an error, as nothing falls through to the next.
pub fn load_folder(folder: &Path) -> Result<ConfList> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default();
    files.retain(|path| {
        let suffix = path.extension().and_then(|suffix| suffix.to_str());
        matches!(suffix, Some("conf" | "conflist" | "json")) && !path.is_dir()
    });
    files.sort();
    let Some(first) = files.first() else {
        bail!("no network config found in {}: cni plugin not initialized", folder.display());
    };
    load_file(first).with_context(|| format!("failed to load CNI config file {}", first.display()))
}

/// Loads one file: a list, or a single plugin that becomes a list of one.
fn load_file(path: &Path) -> Result<ConfList> {
    let source = fs::read_to_string(path).with_context(|| format!("error reading {}", path.display()))?;
    let value: Map<String, Value> = serde_json::from_str(&source).context("error parsing configuration list")?;
    if path.extension().is_some_and(|suffix| suffix == "conflist") {
        return from_list(value, source, path);
    }
    let kind = value.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind.is_empty() {
        bail!("network type not found in {}: invalid cni config", path.display());
    }
    let (name, version) = (text(&value, "name"), text(&value, "cniVersion"));
    let list = serde_json::json!({"name": name, "cniVersion": version, "plugins": [value]});
    Ok(ConfList { name, version, plugins: vec![value], source: list.to_string() })
}

/// A list from its parsed text.
fn from_list(value: Map<String, Value>, source: String, path: &Path) -> Result<ConfList> {
    let name = text(&value, "name");
    if name.is_empty() {
        bail!("error parsing configuration list: no name");
    }
    let Some(plugins) = value.get("plugins").and_then(Value::as_array) else {
        bail!("error parsing configuration list: no 'plugins' key");
    };
    let mut list = ConfList { name, version: choose_version(&value)?, plugins: Vec::new(), source };
    for plugin in plugins {
        match plugin {
            Value::Object(plugin) if plugin.get("type").is_some_and(Value::is_string) => {
                list.plugins.push(plugin.clone())
            }
            _ => bail!("error parsing configuration list: a plugin has no type"),
        }
    }
    let inlined_only = matches!(value.get("loadOnlyInlinedPlugins"), Some(Value::Bool(true)))
        || text(&value, "loadOnlyInlinedPlugins") == "true";
    if !inlined_only {
        list.plugins.extend(siblings(path, &list.name)?);
    }
    if list.plugins.is_empty() {
        bail!("CNI config list {} has no networks, skipping: invalid cni config", path.display());
    }
    Ok(list)
}

/// The plugins in `<folder>/<network's name>/*.conf`.
fn siblings(path: &Path, name: &str) -> Result<Vec<Map<String, Value>>> {
    let folder = path.parent().unwrap_or(Path::new("/")).join(name);
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default();
    files.retain(|path| path.extension().is_some_and(|suffix| suffix == "conf"));
    files.sort();
    files
        .iter()
        .map(|path| {
            let source = fs::read_to_string(path).with_context(|| format!("error reading {}", path.display()))?;
            serde_json::from_str(&source).with_context(|| format!("error parsing configuration {}", path.display()))
        })
        .collect()
}

/// The highest version of cniVersion and cniVersions that this libcni knows.
fn choose_version(value: &Map<String, Value>) -> Result<String> {
    let one = text(value, "cniVersion");
    let many = value.get("cniVersions").and_then(Value::as_array).into_iter().flatten();
    let offered = many.filter_map(Value::as_str).chain([one.as_str()]);
    match offered.filter(|version| VERSIONS.contains(version)).max_by_key(|version| rank(version)) {
        Some(version) => Ok(version.to_owned()),
        None => bail!("error parsing configuration list: none of its versions is supported (highest supported: 1.1.0)"),
    }
}

/// A version's place among all; the empty one counts as 0.1.0.
fn rank(version: &str) -> Vec<u32> {
    let version = if version.is_empty() { "0.1.0" } else { version };
    version.split('.').map(|part| part.parse().unwrap_or_default()).collect()
}

/// A text of an object, empty when there is none.
fn text(value: &Map<String, Value>, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_file_by_name_wins_and_a_bad_one_is_not_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        assert!(load_folder(folder.path()).unwrap_err().to_string().contains("no network config found"));
        fs::write(folder.path().join("20-b.conflist"), r#"{"name":"b","cniVersion":"0.3.1","plugins":[{"type":"x"}]}"#)
            .unwrap();
        fs::write(folder.path().join("00-a.tmp"), "{").unwrap();
        assert_eq!(load_folder(folder.path()).unwrap().name, "b");
        fs::write(folder.path().join("10-a.conflist"), "{").unwrap();
        assert!(load_folder(folder.path()).is_err());
    }

    #[test]
    fn the_highest_known_version_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let text =
            r#"{"name":"b","cniVersion":"0.4.0","cniVersions":["1.0.0","1.1.0","2.0.0"],"plugins":[{"type":"x"}]}"#;
        fs::write(folder.path().join("20-b.conflist"), text).unwrap();
        let list = load_folder(folder.path()).unwrap();
        assert_eq!(list.version, "1.1.0");
        assert!(list.is_at_least("0.4.0"));
    }
}
