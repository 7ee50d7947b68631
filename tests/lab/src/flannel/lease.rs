//! Leases: what a Node's annotations and pod CIDR say, and which changes of a Node count. Pure, but for publishing our own.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use ipnet::Ipv4Net;
use serde_json::{Value, json};

use crate::agent::api::{self, Api, annotation};

use super::device::{Device, External};
use super::log;
use super::options::NetConf;

const BACKEND_DATA: &str = "flannel.alpha.coreos.com/backend-data";
const BACKEND_TYPE: &str = "flannel.alpha.coreos.com/backend-type";
const PUBLIC_IP: &str = "flannel.alpha.coreos.com/public-ip";
const MANAGED: &str = "flannel.alpha.coreos.com/kube-subnet-manager";

/// What flanneld knows of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The Node's name.
    pub node: String,
    /// Its pod CIDR.
    pub subnet: Ipv4Net,
    /// Its outer address.
    pub public_ip: String,
    /// "vxlan" for a peer that we can talk to.
    pub backend_type: String,
    /// The MAC of its VXLAN device.
    pub mac: String,
    /// The VNI.
    pub vni: u64,
}

/// Something that happened to a peer.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// It came, or its lease changed.
    Added(Lease),
    /// Its Node object was deleted.
    Removed(Lease),
}

impl Lease {
    /// Our own lease.
    pub fn own(node: &str, subnet: Ipv4Net, device: &Device, external: &External) -> Lease {
        Lease {
            node: node.to_owned(),
            subnet,
            public_ip: external.public_ip.clone(),
            backend_type: "vxlan".to_owned(),
            mac: device.mac().to_owned(),
            vni: device.vni(),
        }
    }

    /// Two leases of one subnet are one and the same to flanneld, whatever the Nodes' names.
    pub fn same_subnet(&self, other: &Lease) -> bool {
        self.subnet == other.subnet
    }

    /// Patches nodes/status with our annotations, if they differ from what is there. Done at the start only.
    pub fn publish(&self, api: &dyn Api, node: &Value) -> Result<()> {
        // Compact, VtepMAC last: flannel's own parser of the stored MAC splits at `:"` and wants two parts.
        let data = format!("{{\"VNI\":{},\"VtepMAC\":\"{}\"}}", self.vni, self.mac);
        let wanted = [
            (BACKEND_DATA, data.as_str()),
            (BACKEND_TYPE, self.backend_type.as_str()),
            (PUBLIC_IP, self.public_ip.as_str()),
            (MANAGED, "true"),
        ];
        if wanted.iter().all(|(key, value)| annotation(node, key) == Some(value)) {
            return Ok(());
        }
        let annotations: BTreeMap<&str, &str> = wanted.into_iter().collect();
        let path = format!("/api/v1/nodes/{}/status", self.node);
        api.patch(&path, &json!({"metadata": {"annotations": annotations}}))
            .map(|_| ())
            .with_context(|| format!("the annotations of Node {} could not be written", self.node))
    }
}

/// The Node's pod CIDR, which must lie in the configured network.
pub fn pod_cidr(node: &Value, net_conf: &NetConf) -> Result<Ipv4Net> {
    let text = api::text(node, "/spec/podCIDR");
    if text.is_empty() {
        bail!("node {:?} pod cidr not assigned", api::name(node));
    }
    let cidr: Ipv4Net = text
        .parse()
        .with_context(|| format!("the pod CIDR {text:?} of node {:?} is no IPv4 network", api::name(node)))?;
    if !net_conf.network.contains(&cidr) {
        bail!(
            "subnet {cidr} specified in the flannel net config doesn't contain {:?} PodCIDR of the {:?} node",
            net_conf.network,
            api::name(node)
        );
    }
    Ok(cidr)
}

/// The MAC that our Node's annotation remembers.
pub fn stored_mac(node: &Value) -> Option<String> {
    let data: Value = serde_json::from_str(annotation(node, BACKEND_DATA)?).ok()?;
    data["VtepMAC"].as_str().map(str::to_lowercase)
}

/// What the Nodes' new state means, given the last one that was seen.
pub fn changes(before: &BTreeMap<String, Value>, now: &BTreeMap<String, Value>) -> Vec<Change> {
    let updated = now.iter().filter_map(|(name, node)| match before.get(name) {
        None => lease(node).map(Change::Added),
        Some(old) => update(old, node).map(Change::Added),
    });
    let deleted = before.iter().filter(|(name, _)| !now.contains_key(*name));
    // The last state that was seen decides: a Node whose annotations were stripped before its deletion leaks its entries.
    updated.chain(deleted.filter_map(|(_, node)| lease(node).map(Change::Removed))).collect()
}

/// An update counts only if the Node is managed now and one of the three values differs. Removed annotations are no withdrawal.
fn update(old: &Value, new: &Value) -> Option<Lease> {
    let same = [BACKEND_DATA, BACKEND_TYPE, PUBLIC_IP].iter().all(|key| annotation(old, key) == annotation(new, key));
    if same { None } else { lease(new) }
}

/// The lease in a Node's annotations, if flannel would take it for one.
fn lease(node: &Value) -> Option<Lease> {
    if annotation(node, MANAGED) != Some("true") {
        return None;
    }
    let parsed = (|| {
        let data: Value = serde_json::from_str(annotation(node, BACKEND_DATA)?).ok()?;
        let public_ip: std::net::Ipv4Addr = annotation(node, PUBLIC_IP)?.parse().ok()?;
        Some(Lease {
            node: api::name(node).to_owned(),
            subnet: api::text(node, "/spec/podCIDR").parse().ok()?,
            public_ip: public_ip.to_string(),
            backend_type: annotation(node, BACKEND_TYPE).unwrap_or_default().to_owned(),
            mac: data["VtepMAC"].as_str().unwrap_or_default().to_lowercase(),
            vni: data["VNI"].as_u64().unwrap_or(1),
        })
    })();
    if parsed.is_none() {
        log(&format!("Error turning node {:?} to lease", api::name(node)));
    }
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(mac: &str, managed: Option<&str>) -> Value {
        let mut annotations = json!({BACKEND_TYPE: "vxlan", PUBLIC_IP: "192.168.77.2",
            BACKEND_DATA: format!("{{\"VNI\":1,\"VtepMAC\":\"{mac}\"}}")});
        if let Some(managed) = managed {
            annotations[MANAGED] = json!(managed);
        }
        json!({"metadata": {"name": "n2", "annotations": annotations}, "spec": {"podCIDR": "10.244.2.0/24"}})
    }

    fn seen(before: Option<Value>, now: Option<Value>) -> Vec<Change> {
        let map = |node: Option<Value>| node.into_iter().map(|node| ("n2".to_owned(), node)).collect();
        changes(&map(before), &map(now))
    }

    #[test]
    fn a_new_mac_is_taken_over_and_an_unchanged_node_is_not() {
        assert!(matches!(&seen(None, Some(node("0e:aa", Some("true"))))[..], [Change::Added(_)]));
        assert!(seen(Some(node("0e:aa", Some("true"))), Some(node("0e:aa", Some("true")))).is_empty());
        let changed = seen(Some(node("0e:aa", Some("true"))), Some(node("0e:bb", Some("true"))));
        assert!(matches!(&changed[..], [Change::Added(lease)] if lease.mac == "0e:bb"));
    }

    #[test]
    fn removed_annotations_are_no_withdrawal_but_a_deleted_node_is() {
        let bare = json!({"metadata": {"name": "n2"}, "spec": {"podCIDR": "10.244.2.0/24"}});
        assert!(seen(Some(node("0e:aa", Some("true"))), Some(bare.clone())).is_empty());
        assert!(seen(Some(node("0e:aa", Some("true"))), Some(node("0e:bb", None))).is_empty());
        assert!(matches!(&seen(Some(node("0e:aa", Some("true"))), None)[..], [Change::Removed(_)]));
        assert!(seen(Some(bare), None).is_empty(), "stripped before its deletion: the entries leak");
    }
}
