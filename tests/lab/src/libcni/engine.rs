//! go-cni: the networks in use, loaded from a folder, and attaching sandboxes to all of them.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use super::chain::{self, Attachment, Places};
use super::conflist::{self, ConfList};

/// go-cni's error while no configuration is loaded.
pub const NOT_INITIALIZED: &str = "cni plugin not initialized";

/// go-cni's own configuration of the loopback interface.
const LOOPBACK: &str = r#"{"cniVersion": "0.3.1","name": "cni-loopback","plugins": [{"type": "loopback"}]}"#;

/// The networks that new sandboxes are attached to, and that old ones are detached from.
pub struct Engine {
    folder: PathBuf,
    places: Places,
    loaded: Mutex<Loaded>,
}

/// The last load: a failed one leaves nothing in use.
struct Loaded {
    list: Option<ConfList>,
    error: Option<String>,
}

impl Engine {
    /// An engine on containerd's default folders, loaded once.
    pub fn new() -> Engine {
        let engine = Engine {
            folder: PathBuf::from("/etc/cni/net.d"),
            places: Places { path: vec![PathBuf::from("/opt/cni/bin")], cache: PathBuf::from("/var/lib/cni/results") },
            loaded: Mutex::new(Loaded { list: None, error: None }),
        };
        engine.load();
        engine
    }

    /// The folder of configurations.
    pub fn folder(&self) -> &PathBuf {
        &self.folder
    }

    /// Loads the folder again.
    pub fn load(&self) {
        let found = conflist::load_folder(&self.folder);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        *loaded = match found {
            Ok(list) => Loaded { list: Some(list), error: None },
            Err(error) => Loaded {
                list: None,
                error: Some(format!("cni config load failed: {error:#}: failed to load cni config")),
            },
        };
    }

    /// "OK", or why the last load failed.
    pub fn last_load(&self) -> String {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).error.clone().unwrap_or_else(|| "OK".to_owned())
    }

    /// The list in use.
    fn current(&self) -> Result<ConfList> {
        let list = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).list.clone();
        list.ok_or_else(|| anyhow!(NOT_INITIALIZED))
    }

    /// An error while the network is not ready; asks the plugins from CNI 1.1.0 on.
    pub fn status(&self) -> Result<()> {
        chain::status(&self.places, &self.current()?)
    }

    /// Attaches a sandbox: lo, then eth0. Answers eth0's result.
    pub fn setup(&self, attachment: &Attachment) -> Result<Value> {
        let list = self.current()?;
        chain::add(&self.places, &loopback()?, &on("lo", attachment))?;
        chain::add(&self.places, &list, &on("eth0", attachment))
    }

    /// Detaches a sandbox by the list in use now. "not found" counts as done, as does a missing file once the namespace is gone.
    pub fn remove(&self, attachment: &Attachment) -> Result<()> {
        let list = self.current()?;
        for (list, interface) in [(loopback()?, "lo"), (list, "eth0")] {
            if let Err(error) = chain::del(&self.places, &list, &on(interface, attachment)) {
                let words = format!("{error:#}");
                let gone = attachment.netns.is_empty() && words.contains("no such file or directory");
                if !gone && !words.contains("not found") {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The networks in use, in the words of go-cni's GetConfig.
    pub fn describe(&self) -> Value {
        let lists =
            loopback().ok().map(|list| (list, "lo")).into_iter().chain(self.current().ok().map(|list| (list, "eth0")));
        let networks: Vec<Value> = lists
            .map(|(list, interface)| {
                let plugins: Vec<Value> = list.plugins.iter().map(|plugin| json!({"Network": plugin, "Source": json!(plugin).to_string()})).collect();
                json!({"Config": {"Name": list.name, "CNIVersion": list.version, "Plugins": plugins, "Source": list.source}, "IFName": interface})
            })
            .collect();
        json!({
            "PluginDirs": self.places.path,
            "PluginConfDir": self.folder,
            "PluginMaxConfNum": 1,
            "Prefix": "eth",
            "Networks": networks,
        })
    }
}

impl Default for Engine {
    fn default() -> Engine {
        Engine::new()
    }
}

/// The same sandbox, another interface.
fn on(interface: &str, attachment: &Attachment) -> Attachment {
    Attachment { interface: interface.to_owned(), ..attachment.clone() }
}

/// The loopback list.
fn loopback() -> Result<ConfList> {
    let value: Value = serde_json::from_str(LOOPBACK).context("the loopback list is not valid")?;
    let Some(plugins) = value.get("plugins").and_then(Value::as_array) else {
        bail!("the loopback list has no plugins");
    };
    Ok(ConfList {
        name: "cni-loopback".to_owned(),
        version: "0.3.1".to_owned(),
        plugins: plugins.iter().filter_map(Value::as_object).cloned().collect(),
        source: LOOPBACK.to_owned(),
    })
}
