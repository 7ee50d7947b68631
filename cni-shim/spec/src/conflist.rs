//! Conflists, read as libcni reads them (libcni/conf.go).

use crate::chain::{DelList, PluginCall};
use crate::error::{self, Error};
use crate::{convert, exec};
use serde_json::{Map, Value};
use std::fs;
use std::path::{Path, PathBuf};

/// The shim's plugin type, and the name of its binary.
pub const TYPE: &str = "cni-shim";

/// A conflist, parsed no further than needed: plugin entries stay as they are.
#[derive(Clone, Debug, PartialEq)]
pub struct List {
    /// The network's name.
    pub name: String,
    /// The version in which its plugins are called.
    pub cni_version: String,
    /// Whether the runtime must not call CHECK.
    pub disable_check: bool,
    /// Whether the runtime must not call GC.
    pub disable_gc: bool,
    /// The plugins' entries.
    pub plugins: Vec<Map<String, Value>>,
    only_inlined: bool,
}

impl List {
    /// Parses a conflist, or a single plugin's conf as a list of one.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let invalid = |why: &str| Error::new(error::CONFIG, "invalid conflist", why);
        let mut list: Map<String, Value> = serde_json::from_slice(bytes).map_err(|e| invalid(&e.to_string()))?;
        let name = list.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        if name.is_empty() {
            return Err(invalid("it has no name"));
        }
        let cni_version = version(&list).ok_or_else(|| invalid("its cniVersion or cniVersions is not usable"))?;
        let flag = |key| flag(&list, key).ok_or_else(|| invalid(&format!("{key} is neither true nor false")));
        let (disable_check, disable_gc) = (flag("disableCheck")?, flag("disableGC")?);
        let only_inlined = flag("loadOnlyInlinedPlugins")?;
        let entries = match list.shift_remove("plugins") {
            Some(Value::Array(entries)) if !entries.is_empty() => entries,
            Some(_) => return Err(invalid("\"plugins\" is not a list of at least one")),
            None if list.contains_key("type") => vec![Value::Object(list)],
            None => Vec::new(),
        };
        let plugins = entries.into_iter().map(plugin).collect::<Result<_, _>>()?;
        Ok(Self { name, cni_version, disable_check, disable_gc, plugins, only_inlined })
    }

    /// Reads a conflist and the plugins beside it in `<directory>/<network name>/*.conf`. Also gives the file's bytes.
    pub fn read(path: &Path) -> Result<(Self, Vec<u8>), Error> {
        let bytes = fs::read(path).map_err(Error::io("read", path))?;
        let list = Self::parse(&bytes)
            .map_err(|cause| Error { msg: format!("{}: {}", path.display(), cause.msg), ..cause })?;
        Ok((list.with_siblings(path)?, bytes))
    }

    /// The list with the plugins beside it.
    pub fn with_siblings(mut self, path: &Path) -> Result<Self, Error> {
        let dir = path.parent().unwrap_or(Path::new("/")).join(&self.name);
        let mut files = match fs::read_dir(&dir) {
            Ok(entries) if !self.only_inlined => entries.flatten().map(|entry| entry.path()).collect(),
            _ => Vec::new(),
        };
        files.retain(|file| file.extension().is_some_and(|extension| extension == "conf") && file.is_file());
        files.sort();
        for file in files {
            let bytes = fs::read(&file).map_err(Error::io("read", &file))?;
            self.plugins.push(plugin(serde_json::from_slice(&bytes).map_err(Error::io("parse", &file))?)?);
        }
        if self.plugins.is_empty() {
            return Err(Error::new(
                error::CONFIG,
                format!("{} names no plugin", path.display()),
                "its \"plugins\" is empty",
            ));
        }
        Ok(self)
    }

    /// The list ready to be run, with each plugin's binary out of CNI_PATH. Nothing is run if one is missing, or is the shim,
    /// or if the results that they would give in the list's version could not be read.
    pub fn resolve(self, cni_path: &str) -> Result<DelList, Error> {
        if !convert::is_supported(&self.cni_version) {
            let msg = format!("network \"{}\" is of CNI version \"{}\"", self.name, self.cni_version);
            let known = convert::SUPPORTED.join(", ");
            let why = format!("nothing was done. To fix it: let its conflist name one of {known}");
            return Err(Error::new(error::VERSION, msg, why));
        }
        let mut plugins = Vec::new();
        for config in self.plugins {
            let kind = config.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
            let path = find_in_path(cni_path, &kind).ok_or_else(|| {
                let why = format!("nothing was done. CNI_PATH is \"{cni_path}\". To fix it: install it there");
                Error::new(
                    error::TRY_LATER,
                    format!("the plugin \"{kind}\" of network \"{}\" is missing", self.name),
                    why,
                )
            })?;
            exec::refuse_ourselves(&path)?;
            plugins.push(PluginCall { kind, path, config });
        }
        Ok(DelList {
            network: self.name,
            cni_version: self.cni_version,
            plugins,
            runtime_config: Map::new(),
            args: String::new(),
            disable_check: self.disable_check,
        })
    }

    /// Of a runtime's capability arguments those that one of the plugins declares.
    pub fn declared(&self, arguments: &Map<String, Value>) -> Map<String, Value> {
        let mut declared = arguments.clone();
        declared.retain(|key, _| self.plugins.iter().any(|plugin| declares(plugin, key)));
        declared
    }

    /// Whether the list has a plugin of this type.
    pub fn runs(&self, kind: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin.get("type").and_then(Value::as_str) == Some(kind))
    }
}

/// Whether a plugin's entry declares a capability.
pub fn declares(plugin: &Map<String, Value>, capability: &str) -> bool {
    plugin.get("capabilities").and_then(|all| all.get(capability)) == Some(&Value::Bool(true))
}

fn plugin(entry: Value) -> Result<Map<String, Value>, Error> {
    match entry {
        Value::Object(entry) if entry.get("type").and_then(Value::as_str).is_some_and(|kind| !kind.is_empty()) => {
            Ok(entry)
        }
        _ => Err(Error::new(error::CONFIG, "invalid conflist", "a plugin is not an object with a \"type\"")),
    }
}

/// The highest version that the list offers and the shim speaks (1.1.0 at most), as libcni chooses.
fn version(list: &Map<String, Value>) -> Option<String> {
    let single = list.get("cniVersion").map_or(Some(""), Value::as_str)?;
    let Some(offered) = list.get("cniVersions") else {
        return Some(single.to_owned());
    };
    let mut versions = offered.as_array()?.iter().map(Value::as_str).collect::<Option<Vec<_>>>()?;
    versions.extend(Some(single).filter(|single| !single.is_empty()));
    let known = versions.into_iter().filter(|version| at_most_ours(version) == Some(true));
    Some(known.max_by_key(|version| convert::parse(version)).unwrap_or(single).to_owned())
}

fn at_most_ours(version: &str) -> Option<bool> {
    Some(convert::parse(version)? <= convert::parse("1.1.0")?)
}

fn flag(list: &Map<String, Value>, key: &str) -> Option<bool> {
    match list.get(key) {
        None => Some(false),
        Some(Value::Bool(flag)) => Some(*flag),
        Some(Value::String(text)) => text.to_ascii_lowercase().parse().ok(),
        Some(_) => None,
    }
}

/// The binary that libcni would run for a plugin type: the first regular file of that name in CNI_PATH.
pub fn find_in_path(cni_path: &str, kind: &str) -> Option<PathBuf> {
    let usable = !kind.is_empty() && !kind.contains('/');
    let mut candidates =
        cni_path.split(':').filter(|dir| usable && !dir.is_empty()).map(|dir| Path::new(dir).join(kind));
    candidates.find(|file| file.is_file())
}
