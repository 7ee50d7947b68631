//! What libcni does with a conflist, written down once more, independently of the shim: the oracle of the transparency test.

use super::World;
use serde_json::{Map, Value};
use std::io::Write as _;
use std::process::{Command, Stdio};

/// A runtime's attachment.
pub struct Runtime<'a> {
    pub world: &'a World,
    pub list: Value,
    pub container_id: &'a str,
    pub args: &'a str,
    pub capability_args: Value,
}

impl Runtime<'_> {
    fn run(&self, verb: &str, plugin: &Value, previous: Option<&Value>) -> Result<Option<Value>, Value> {
        let mut config: Map<String, Value> = plugin.as_object().unwrap().clone();
        config.insert("name".into(), self.list["name"].clone());
        config.insert("cniVersion".into(), self.list["cniVersion"].clone());
        if let Some(previous) = previous {
            config.insert("prevResult".into(), previous.clone());
        }
        let mut runtime_config = Map::new();
        for (capability, on) in plugin["capabilities"].as_object().into_iter().flatten() {
            if on == &Value::Bool(true)
                && let Some(value) = self.capability_args.get(capability)
            {
                runtime_config.insert(capability.clone(), value.clone());
            }
        }
        if !runtime_config.is_empty() {
            config.insert("runtimeConfig".into(), runtime_config.into());
        }
        let call = self.world.call(verb, self.container_id).env("CNI_ARGS", self.args);
        let mut command = Command::new(self.world.path("bin").join(plugin["type"].as_str().unwrap()));
        command.envs(&call.env).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(Value::Object(config).to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let document = serde_json::from_slice(&output.stdout).ok();
        if output.status.success() { Ok(document) } else { Err(document.unwrap_or_default()) }
    }

    /// AddNetworkList.
    pub fn add(&self) -> Result<Value, Value> {
        let mut previous = None;
        for plugin in self.list["plugins"].as_array().unwrap() {
            previous = self.run("ADD", plugin, previous.as_ref())?;
        }
        Ok(previous.unwrap())
    }

    /// DelNetworkList: prevResult from version 0.4.0 on, in the list's version.
    pub fn del(&self, cached: &Value) -> Result<(), Value> {
        let previous = (self.list["cniVersion"].as_str().unwrap() >= "0.4.0").then_some(cached);
        for plugin in self.list["plugins"].as_array().unwrap().iter().rev() {
            self.run("DEL", plugin, previous)?;
        }
        Ok(())
    }

    /// CheckNetworkList.
    pub fn check(&self, cached: &Value) -> Result<(), Value> {
        for plugin in self.list["plugins"].as_array().unwrap() {
            self.run("CHECK", plugin, Some(cached))?;
        }
        Ok(())
    }
}
