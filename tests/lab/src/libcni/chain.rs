//! ADD forward, DEL in reverse, with what libcni hands from plugin to plugin.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use super::cache;
use super::conflist::ConfList;
use super::exec::{self, Call};

/// One interface of one sandbox, as the runtime describes it.
#[derive(Debug, Clone, Default)]
pub struct Attachment {
    /// The sandbox.
    pub container: String,
    /// Path of the network namespace; empty when it is gone.
    pub netns: String,
    /// The interface's name in the namespace.
    pub interface: String,
    /// CNI_ARGS as pairs.
    pub arguments: Vec<(String, String)>,
    /// What may become runtimeConfig, by capability.
    pub capabilities: Map<String, Value>,
}

/// Where plugins and cached results are.
#[derive(Debug, Clone)]
pub struct Places {
    /// Folders with plugins.
    pub path: Vec<PathBuf>,
    /// The results cache.
    pub cache: PathBuf,
}

/// Runs ADD through the list; answers the last plugin's result. Nothing is undone on an error: that is the runtime's DEL.
pub fn add(places: &Places, list: &ConfList, attachment: &Attachment) -> Result<Value> {
    let mut result = None;
    for plugin in &list.plugins {
        let answer = invoke(places, "ADD", list, plugin, attachment, result.as_ref())
            .with_context(|| format!("plugin {} failed (add)", describe(plugin)))?;
        let mut parsed: Value = serde_json::from_str(&answer).context("failed to unmarshal raw result")?;
        if let Value::Object(parsed) = &mut parsed {
            // An answer without a version is taken for one of the list's.
            let version = parsed.entry("cniVersion").or_insert_with(|| Value::from(""));
            if version.as_str() == Some("") {
                *version = Value::from(list.version.as_str());
            }
        }
        result = Some(parsed);
    }
    let Some(result) = result else {
        bail!("the list {} has no plugins", list.name);
    };
    cache::add(&places.cache, list, attachment, &result)?;
    Ok(result)
}

/// Runs DEL through the list in reverse, with the list it is given; the first error ends it and keeps the cached result.
pub fn del(places: &Places, list: &ConfList, attachment: &Attachment) -> Result<()> {
    let cached = if list.is_at_least("0.4.0") { cache::result(&places.cache, &list.name, attachment) } else { None };
    for plugin in list.plugins.iter().rev() {
        invoke(places, "DEL", list, plugin, attachment, cached.as_ref())
            .with_context(|| format!("plugin {} failed (delete)", describe(plugin)))?;
    }
    cache::remove(&places.cache, &list.name, attachment);
    Ok(())
}

/// Runs STATUS through the list, which exists from 1.1.0 on.
pub fn status(places: &Places, list: &ConfList) -> Result<()> {
    if !list.is_at_least("1.1.0") {
        return Ok(());
    }
    let nobody = Attachment::default();
    list.plugins.iter().try_for_each(|plugin| invoke(places, "STATUS", list, plugin, &nobody, None).map(drop))
}

/// Calls one plugin.
fn invoke(
    places: &Places,
    verb: &str,
    list: &ConfList,
    plugin: &Map<String, Value>,
    attachment: &Attachment,
    previous: Option<&Value>,
) -> Result<String> {
    let arguments: Vec<String> = attachment.arguments.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let call = Call {
        verb,
        container: &attachment.container,
        netns: &attachment.netns,
        interface: &attachment.interface,
        arguments: &arguments.join(";"),
        path: &places.path,
    };
    exec::run(&call, kind(plugin), &derive(list, plugin, attachment, previous))
}

/// A plugin's configuration as it is called with: the list's name and version, the previous result, the capabilities it asked for.
fn derive(list: &ConfList, plugin: &Map<String, Value>, attachment: &Attachment, previous: Option<&Value>) -> Value {
    let mut configuration = plugin.clone();
    configuration.insert("name".to_owned(), Value::from(list.name.as_str()));
    configuration.insert("cniVersion".to_owned(), Value::from(list.version.as_str()));
    if let Some(previous) = previous {
        configuration.insert("prevResult".to_owned(), previous.clone());
    }
    let mut runtime = Map::new();
    for (capability, wanted) in plugin.get("capabilities").and_then(Value::as_object).into_iter().flatten() {
        if let (Value::Bool(true), Some(value)) = (wanted, attachment.capabilities.get(capability)) {
            runtime.insert(capability.clone(), value.clone());
        }
    }
    if !runtime.is_empty() {
        configuration.insert("runtimeConfig".to_owned(), Value::Object(runtime));
    }
    Value::Object(configuration)
}

/// A plugin's type.
fn kind(plugin: &Map<String, Value>) -> &str {
    plugin.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// libcni's description of a plugin in messages.
fn describe(plugin: &Map<String, Value>) -> String {
    match plugin.get("name").and_then(Value::as_str) {
        Some(name) => format!("type={:?} name={name:?}", kind(plugin)),
        None => format!("type={:?}", kind(plugin)),
    }
}
