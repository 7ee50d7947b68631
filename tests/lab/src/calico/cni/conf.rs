//! What a CNI call brings along: environment, arguments, network configuration.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::agent::api::{Api, text};
use crate::agent::{self, env};
use crate::calico::ipam::store::GROUP;

use super::Failure;

/// The versions that Calico's plugins speak.
pub const SUPPORTED: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", ""];

/// One call of a plugin.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_NETNS, possibly empty on DEL.
    pub netns: String,
    /// CNI_IFNAME.
    pub ifname: String,
    /// CNI_ARGS, taken apart.
    pub args: BTreeMap<String, String>,
    /// The network configuration as it came.
    pub stdin: String,
    /// The same, parsed.
    pub conf: Value,
}

/// A pod, as the arguments name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRef {
    /// K8S_POD_NAMESPACE.
    pub namespace: String,
    /// K8S_POD_NAME.
    pub name: String,
}

impl PodRef {
    /// The Pod's path in the API.
    pub fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/pods/{}", self.namespace, self.name)
    }
}

impl Invocation {
    /// Reads environment, configuration and CNI_ARGS; what is missing is named as libcni's skeleton names it.
    pub fn read(command: &str, stdin: &str, args: &str) -> std::result::Result<Invocation, Failure> {
        let needed: &[&str] = match command {
            "ADD" | "CHECK" => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
            _ => &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
        };
        let missing: Vec<&str> = needed.iter().copied().filter(|name| env(name).is_none()).collect();
        if !missing.is_empty() {
            return Err(Failure::new(4, format!("required env variables [{}] missing", missing.join(","))));
        }
        let conf: Value = serde_json::from_str(stdin)
            .map_err(|error| Failure::new(6, format!("error unmarshall network config: {error}")))?;
        let version = conf["cniVersion"].as_str().unwrap_or_default();
        if !SUPPORTED.contains(&version) {
            let known = SUPPORTED
                .iter()
                .filter(|known| !known.is_empty())
                .map(|known| format!("{known:?}"))
                .collect::<Vec<_>>()
                .join(" ");
            return Err(Failure::new(
                1,
                format!("incompatible CNI versions; config is {version:?}, plugin supports [{known}]"),
            ));
        }
        let args = parse_args(args)?;
        let value = |name: &str| env(name).unwrap_or_default();
        Ok(Invocation {
            container_id: value("CNI_CONTAINERID"),
            netns: value("CNI_NETNS"),
            ifname: value("CNI_IFNAME"),
            args,
            stdin: stdin.to_owned(),
            conf,
        })
    }

    /// The network's name.
    pub fn network(&self) -> &str {
        text(&self.conf, "/name")
    }

    /// The version to answer in.
    pub fn version(&self) -> &str {
        self.conf["cniVersion"].as_str().filter(|version| !version.is_empty()).unwrap_or("0.2.0")
    }

    /// The pod, if the arguments name one; without it the orchestrator is "cni".
    pub fn pod(&self) -> Option<PodRef> {
        let value = |key: &str| self.args.get(key).filter(|value| !value.is_empty()).cloned();
        Some(PodRef { namespace: value("K8S_POD_NAMESPACE")?, name: value("K8S_POD_NAME")? })
    }

    /// The IPAM handle of this sandbox.
    pub fn handle(&self) -> String {
        format!("{}.{}", self.network(), self.container_id)
    }

    /// Fails unless calico-node has written its nodename file, or the configuration does not insist on it.
    pub fn require_nodename_file(&self) -> Result<()> {
        let file = self.nodename_file();
        if self.conf["nodename_file_optional"] == true || Path::new(&file).exists() {
            return Ok(());
        }
        bail!(
            "stat {file}: no such file or directory: check that the calico/node container is running and has mounted /var/lib/calico/"
        )
    }

    fn nodename_file(&self) -> String {
        self.conf["nodename_file"]
            .as_str()
            .filter(|file| !file.is_empty())
            .unwrap_or("/var/lib/calico/nodename")
            .to_owned()
    }

    /// The node's name: the configuration's, else the file's, else the host's.
    pub fn node(&self) -> Result<String> {
        if let Some(name) = self.conf["nodename"].as_str().filter(|name| !name.is_empty() && !name.starts_with("__")) {
            return Ok(name.to_owned());
        }
        match std::fs::read_to_string(self.nodename_file()) {
            Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
            _ => agent::node_name(),
        }
    }

    /// The MTU: the configuration's, else the one that calico-node wrote; a file that holds no number is fatal.
    pub fn mtu(&self) -> Result<Option<u64>> {
        let from_file = match std::fs::read_to_string("/var/lib/calico/mtu") {
            Ok(text) => {
                Some(text.trim().parse().context("failed to read MTU file: /var/lib/calico/mtu holds no number")?)
            }
            Err(_) => None,
        };
        Ok(self.conf["mtu"].as_u64().filter(|mtu| *mtu != 0).or(from_file))
    }

    /// Connects with the kubeconfig that the configuration names.
    pub fn connect(&self) -> Result<Arc<dyn Api>> {
        let path = text(&self.conf, "/kubernetes/kubeconfig");
        if path.is_empty() {
            bail!("error creating calico client: the network configuration names no kubeconfig");
        }
        agent::connect_with(path).with_context(|| format!("error creating calico client from {path}"))
    }
}

/// Fails unless ClusterInformation says that the datastore is ready.
pub fn require_ready(api: &dyn Api) -> Result<()> {
    let object =
        api.get(&format!("{GROUP}/clusterinformations/default")).context("error getting ClusterInformation")?;
    match object["spec"]["datastoreReady"].as_bool() {
        Some(true) => Ok(()),
        Some(false) => bail!("Calico is currently not ready to process requests"),
        // The real plugin follows a nil pointer here and panics.
        None => bail!(
            "Calico CNI panicked: runtime error: invalid memory address or nil pointer dereference (ClusterInformation has no datastoreReady)"
        ),
    }
}

/// CNI_ARGS as `calico` takes and hands them on: it ignores what it does not know, and tells calico-ipam to, which does not by itself.
pub fn lenient_args() -> String {
    let given = env("CNI_ARGS").unwrap_or_default();
    if given.is_empty() { "IgnoreUnknown=1".to_owned() } else { format!("{given};IgnoreUnknown=1") }
}

/// Takes `K=V;K=V` apart. Keys that the plugin does not know are an error, unless IgnoreUnknown says otherwise.
fn parse_args(args: &str) -> std::result::Result<BTreeMap<String, String>, Failure> {
    const KNOWN: [&str; 5] = ["IgnoreUnknown", "IP", "K8S_POD_NAME", "K8S_POD_NAMESPACE", "K8S_POD_INFRA_CONTAINER_ID"];
    let mut parsed = BTreeMap::new();
    for pair in args.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(Failure::new(999, format!("ARGS: invalid pair {pair:?}")));
        };
        parsed.insert(key.to_owned(), value.to_owned());
    }
    let lenient =
        parsed.get("IgnoreUnknown").is_some_and(|value| matches!(value.to_lowercase().as_str(), "1" | "true"));
    let unknown: Vec<&String> = parsed.keys().filter(|key| !KNOWN.contains(&key.as_str())).collect();
    if !lenient && !unknown.is_empty() {
        return Err(Failure::new(999, format!("ARGS: unknown args {unknown:?}")));
    }
    Ok(parsed)
}
