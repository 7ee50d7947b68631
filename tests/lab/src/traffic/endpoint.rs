//! Where probes start and end.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::agent::family::Family;
use crate::node::Node;
use crate::pod::PORT;

/// A pod, a node's own network, or an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// A pod on its own network, by namespace and name.
    Pod(String, String),
    /// A node's own network; as a target it needs something that listens there.
    Host(String),
    /// Anything else that echoes; a target only.
    Address(SocketAddr),
}

impl Endpoint {
    /// A pod of the default namespace, or "namespace/name", "host:node1", "10.96.0.10:7777".
    pub fn parse(text: &str) -> Endpoint {
        if let Ok(address) = text.parse() {
            return Endpoint::Address(address);
        }
        match (text.strip_prefix("host:"), text.split_once('/')) {
            (Some(node), _) => Endpoint::Host(node.to_owned()),
            (None, Some((namespace, name))) => Endpoint::Pod(namespace.to_owned(), name.to_owned()),
            (None, None) => Endpoint::Pod("default".to_owned(), text.to_owned()),
        }
    }

    /// The endpoint's pod among those the API server knows.
    pub fn find<'a>(&self, pods: &'a [Value]) -> Option<&'a Value> {
        let Endpoint::Pod(namespace, name) = self else {
            return None;
        };
        pods.iter()
            .find(|pod| pod["metadata"]["namespace"] == namespace.as_str() && pod["metadata"]["name"] == name.as_str())
    }

    /// Where datagrams of a family to it go; nothing where it has no such address.
    pub fn address_in(&self, family: Family, pods: &[Value], nodes: &[&dyn Node]) -> Option<SocketAddr> {
        match self {
            Endpoint::Address(address) => Some(*address).filter(|address| Family::of(address.ip()) == family),
            Endpoint::Host(name) => {
                let node = nodes.iter().find(|node| node.name() == name)?;
                let ip = match family {
                    Family::V4 => node.address().into(),
                    Family::V6 => node.address_v6()?.into(),
                };
                Some(SocketAddr::new(ip, PORT))
            }
            Endpoint::Pod(..) => Some(SocketAddr::new(pod_address(self.find(pods)?, family)?, PORT)),
        }
    }

    /// Where datagrams to it go, at its first address; nothing while a pod has none.
    pub fn address(&self, pods: &[Value], nodes: &[&dyn Node]) -> Option<SocketAddr> {
        match self {
            Endpoint::Address(address) => Some(*address),
            Endpoint::Host(name) => {
                nodes.iter().find(|node| node.name() == name).map(|node| SocketAddr::new(node.address().into(), PORT))
            }
            Endpoint::Pod(..) => {
                let ip: IpAddr = self.find(pods)?["status"]["podIP"].as_str()?.parse().ok()?;
                Some(SocketAddr::new(ip, PORT))
            }
        }
    }
}

/// A pod's address of a family.
pub fn pod_address(pod: &Value, family: Family) -> Option<IpAddr> {
    let listed = pod["status"]["podIPs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let all = listed.iter().map(|entry| &entry["ip"]).chain(std::iter::once(&pod["status"]["podIP"]));
    all.filter_map(|ip| ip.as_str()?.parse().ok()).find(|ip| Family::of(*ip) == family)
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Endpoint::Pod(namespace, name) if namespace == "default" => out.write_str(name),
            Endpoint::Pod(namespace, name) => write!(out, "{namespace}/{name}"),
            Endpoint::Host(node) => write!(out, "host:{node}"),
            Endpoint::Address(address) => write!(out, "{address}"),
        }
    }
}

/// Path of the network namespace of a pod's ready sandbox, as its node sees it.
pub fn netns(node: &dyn Node, pod: &Value) -> Result<String> {
    // A static pod's sandbox bears the pod's own uid; what the API server shows is its mirror, which has another.
    let own = &pod["metadata"]["annotations"]["kubernetes.io/config.mirror"];
    let uid = own.as_str().or(pod["metadata"]["uid"].as_str()).unwrap_or_default();
    let cri = node.cri()?;
    for sandbox in cri.list_pod_sandbox()? {
        let is_it = sandbox.labels.get("io.kubernetes.pod.uid").is_some_and(|label| label == uid);
        if is_it && sandbox.state() == crate::cri::PodSandboxState::SandboxReady {
            return cri
                .sandbox_netns(&sandbox.id)?
                .with_context(|| format!("the sandbox {} has no network namespace of its own", sandbox.id));
        }
    }
    bail!("{} has no ready sandbox of the pod {uid}", node.name())
}
