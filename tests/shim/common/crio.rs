//! CRI-O's way with CNI, as its source has it (cri-o/ocicni pkg/ocicni/ocicni.go, cri-o server/sandbox_network.go, server.go):
//! lists are validated when they are loaded; ADD is followed by CHECK; CHECK and DEL go by what was cached at ADD; a failed DEL
//! is forgotten; GC runs once, at the start, for every list on disk.

use super::World;
use super::libcni::Runtime;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

/// CRI-O, just started: the lists that it found, the default one first.
pub struct Crio<'a> {
    world: &'a World,
    pub lists: Vec<Value>,
}

impl<'a> Crio<'a> {
    /// loadNetworks: sorted by name, unusable ones left out, the first of a name counts.
    pub fn start(world: &'a World) -> Self {
        let dir = world.path("root/etc/cni/net.d");
        let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some_and(|e| e == "conflist" || e == "conf" || e == "json"));
        files.sort();
        let mut lists: Vec<Value> = Vec::new();
        for file in files {
            let Ok(list) = serde_json::from_slice::<Value>(&fs::read(file).unwrap()) else { continue };
            let known = lists.iter().any(|other| other["name"] == list["name"]);
            if !known && Runtime::new(world, list.clone(), "", Value::Null).is_valid() {
                lists.push(list);
            }
        }
        Self { world, lists }
    }

    fn results(&self) -> PathBuf {
        self.world.path("root/var/lib/cni/results")
    }

    /// networkStart: SetUpPod, then GetPodNetworkStatus, whose result counts; networkStop if either fails.
    pub fn start_pod<'b>(&'b self, id: &'b str, capability_args: Value) -> Result<Value, Value> {
        let runtime = Runtime::new(self.world, self.lists[0].clone(), id, capability_args);
        let started =
            runtime.add().map(|result| runtime.store(&self.results(), &result)).and_then(|()| self.status(id));
        started.inspect_err(|_| drop(self.stop_pod(id)))
    }

    /// GetPodNetworkStatus, as also `crictl inspectp` and the kubelet's questions come to it: CHECK by the cached list from
    /// 0.4.0 on, then the cached result.
    pub fn status(&self, id: &str) -> Result<Value, Value> {
        let first = self.cached(id).into_iter().next();
        let (runtime, result) = first.ok_or_else(|| json!({"msg": "no cached network"}))?;
        if super::libcni::version(&runtime.list).as_str() >= "0.4.0" {
            runtime.check(&result)?;
        }
        Ok(result)
    }

    /// networkStop: DEL by the cached lists; the cached results go also if it fails, and it is never tried again.
    pub fn stop_pod(&self, id: &str) -> Result<(), Value> {
        let outcome = self.cached(id).into_iter().try_for_each(|(runtime, result)| {
            runtime.del(Some(&result))?;
            runtime.forget(&self.results());
            Ok(())
        });
        if outcome.is_err() {
            for entry in fs::read_dir(self.results()).unwrap().map(Result::unwrap) {
                if entry.file_name().to_string_lossy().contains(id) {
                    fs::remove_file(entry.path()).unwrap();
                }
            }
        }
        outcome
    }

    /// What was cached for a sandbox: its networks, with the cached list, CNI_ARGS and capability arguments.
    fn cached<'b>(&'b self, id: &'b str) -> Vec<(Runtime<'b>, Value)> {
        let entries = fs::read_dir(self.results()).into_iter().flatten().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries.filter(|file| file.to_string_lossy().contains(&format!("-{id}-"))).collect();
        files.sort();
        let runtime = |file: PathBuf| {
            let cache: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
            let list = STANDARD.decode(cache["config"].as_str().unwrap()).unwrap();
            (self.attachment(serde_json::from_slice(&list).unwrap(), id, &cache), cache["result"].clone())
        };
        files.into_iter().map(runtime).collect()
    }

    /// A list for a cached attachment: with the CNI_ARGS and the capability arguments of its ADD.
    fn attachment<'b>(&'b self, list: Value, id: &'b str, cache: &Value) -> Runtime<'b> {
        let pairs = cache["cniArgs"].as_array().unwrap().iter();
        let pairs = pairs.map(|pair| format!("{}={}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()));
        let mut runtime = Runtime::new(self.world, list, id, cache["capabilityArgs"].clone());
        runtime.args = pairs.collect::<Vec<_>>().join(";");
        runtime
    }

    /// GC, which the server does once when it starts: every list on disk, with the living pods filed under the default
    /// network's name alone. libcni deletes the cached attachments of that name that are not valid, then asks the plugins.
    pub fn gc(&self, living: &[&str]) -> Result<(), Value> {
        for (place, list) in self.lists.iter().enumerate() {
            let valid: Vec<&str> = if place == 0 { living.to_vec() } else { Vec::new() };
            for entry in fs::read_dir(self.results()).into_iter().flatten().map(Result::unwrap) {
                let cache: Value = serde_json::from_slice(&fs::read(entry.path()).unwrap()).unwrap();
                let id = cache["containerId"].as_str().unwrap();
                if cache["networkName"] == list["name"] && !valid.contains(&id) {
                    let runtime = self.attachment(list.clone(), id, &cache);
                    runtime.del(Some(&cache["result"]))?;
                    runtime.forget(&self.results());
                }
            }
            if super::libcni::version(list).as_str() >= "1.1.0" {
                let valid: Value = valid.iter().map(|id| json!({"containerID": id, "ifname": "eth0"})).collect();
                Runtime::new(self.world, list.clone(), "", Value::Null).gc(&valid)?;
            }
        }
        Ok(())
    }
}
