//! What libcni does with a conflist, written down once more, independently of the shim: the oracle of the transparency tests.

use super::World;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A runtime's attachment to one network.
#[derive(Clone)]
pub struct Runtime<'a> {
    pub world: &'a World,
    /// Folder with the plugins.
    pub bin: PathBuf,
    pub list: Value,
    pub container_id: &'a str,
    pub netns: String,
    pub args: String,
    pub capability_args: Value,
}

/// The version that a libcni which knows `cniVersions` runs a list at.
pub fn version(list: &Value) -> String {
    let offered = list["cniVersions"].as_array().into_iter().flatten().chain([&list["cniVersion"]]);
    offered.filter_map(Value::as_str).filter(|version| *version <= "1.1.0").max().unwrap_or_default().to_owned()
}

impl<'a> Runtime<'a> {
    /// As the tests' world has it.
    pub fn new(world: &'a World, list: Value, container_id: &'a str, capability_args: Value) -> Self {
        let netns = format!("/var/run/netns/{container_id}");
        let (bin, args) = (world.path("bin"), super::ARGS.to_owned());
        Self { world, bin, list, container_id, netns, args, capability_args }
    }

    fn run(&self, verb: &str, plugin: &Value, more: &[(&str, &Value)]) -> Result<Option<Value>, Value> {
        let mut config: Map<String, Value> = plugin.as_object().unwrap().clone();
        config.insert("name".into(), self.list["name"].clone());
        config.insert("cniVersion".into(), version(&self.list).into());
        config.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).clone())));
        let mut runtime_config = Map::new();
        for (capability, on) in plugin["capabilities"].as_object().into_iter().flatten() {
            if on == &Value::Bool(true)
                && let Some(value) = self.capability_args.get(capability)
            {
                runtime_config.insert(capability.clone(), value.clone());
            }
        }
        if !runtime_config.is_empty() && verb != "GC" {
            config.insert("runtimeConfig".into(), runtime_config.into());
        }
        let kind = plugin["type"].as_str().unwrap();
        let file = self.bin.join(kind);
        if !file.is_file() {
            return Err(json!({"msg": format!("failed to find plugin \"{kind}\" in path [{}]", self.bin.display())}));
        }
        let none = verb == "GC" || verb == "VERSION";
        let of_pod = |value: &str| if none { String::new() } else { value.to_owned() };
        let mut command = Command::new(file);
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", of_pod(self.container_id));
        command.env("CNI_NETNS", of_pod(&self.netns)).env("CNI_IFNAME", of_pod("eth0"));
        command.env("CNI_ARGS", of_pod(&self.args)).env("CNI_PATH", &self.bin);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        let _ = child.stdin.take().unwrap().write_all(Value::Object(config).to_string().as_bytes());
        let output = child.wait_with_output().unwrap();
        let document = serde_json::from_slice(&output.stdout).ok();
        if output.status.success() { Ok(document) } else { Err(document.unwrap_or_default()) }
    }

    fn plugins(&self) -> &Vec<Value> {
        self.list["plugins"].as_array().unwrap()
    }

    /// AddNetworkList, without the cache.
    pub fn add(&self) -> Result<Value, Value> {
        let mut previous: Option<Value> = None;
        for plugin in self.plugins() {
            let more: Vec<_> = previous.iter().map(|previous| ("prevResult", previous)).collect();
            previous = self.run("ADD", plugin, &more)?;
        }
        Ok(previous.unwrap())
    }

    /// DelNetworkList: prevResult from version 0.4.0 on, in the list's version.
    pub fn del(&self, cached: Option<&Value>) -> Result<(), Value> {
        let previous: Vec<_> = cached
            .filter(|_| version(&self.list).as_str() >= "0.4.0")
            .map(|cached| ("prevResult", cached))
            .into_iter()
            .collect();
        for plugin in self.plugins().iter().rev() {
            self.run("DEL", plugin, &previous)?;
        }
        Ok(())
    }

    /// CheckNetworkList.
    pub fn check(&self, cached: &Value) -> Result<(), Value> {
        for plugin in self.plugins() {
            self.run("CHECK", plugin, &[("prevResult", cached)])?;
        }
        Ok(())
    }

    /// The second half of GCNetworkList.
    pub fn gc(&self, valid: &Value) -> Result<(), Value> {
        for plugin in self.plugins() {
            self.run("GC", plugin, &[("cni.dev/valid-attachments", valid), ("cni.dev/attachments", valid)])?;
        }
        Ok(())
    }

    /// ValidateNetworkList: every plugin must support the list's version.
    pub fn is_valid(&self) -> bool {
        let supports = |plugin: &Value| {
            let answer = self.run("VERSION", plugin, &[]).ok().flatten().unwrap_or_default();
            answer["supportedVersions"].as_array().is_some_and(|all| all.contains(&version(&self.list).into()))
        };
        self.plugins().iter().all(supports)
    }

    fn cache_file(&self, results: &Path) -> PathBuf {
        results.join(format!("{}-{}-eth0", self.list["name"].as_str().unwrap(), self.container_id))
    }

    /// cacheAdd.
    pub fn store(&self, results: &Path, result: &Value) {
        let pairs: Vec<_> = self.args.split(';').filter_map(|pair| pair.split_once('=')).collect();
        let cache = json!({"kind": "cniCacheV1", "containerId": self.container_id,
            "config": STANDARD.encode(self.list.to_string()), "ifName": "eth0", "networkName": self.list["name"],
            "netns": self.netns, "cniArgs": pairs, "capabilityArgs": self.capability_args, "result": result});
        fs::create_dir_all(results).unwrap();
        fs::write(self.cache_file(results), cache.to_string()).unwrap();
    }

    /// cacheDel.
    pub fn forget(&self, results: &Path) {
        let _ = fs::remove_file(self.cache_file(results));
    }
}
