//! Leases: what a Node's annotations and pod CIDR say, and which changes of a Node count. Pure, but for publishing our own.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::agent::api::{self, Api, annotation};
use crate::agent::family::Family;

use super::device::Device;
use super::log;
use super::options::NetConf;

const BACKEND_TYPE: &str = "flannel.alpha.coreos.com/backend-type";
const MANAGED: &str = "flannel.alpha.coreos.com/kube-subnet-manager";

/// The annotation that holds the backend's data for a family.
fn backend_data(family: Family) -> &'static str {
    match family {
        Family::V4 => "flannel.alpha.coreos.com/backend-data",
        Family::V6 => "flannel.alpha.coreos.com/backend-v6-data",
    }
}

/// The annotation that holds a family's outer address.
fn public_ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "flannel.alpha.coreos.com/public-ip",
        Family::V6 => "flannel.alpha.coreos.com/public-ipv6",
    }
}

/// What flanneld knows of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The Node's name.
    pub node: String,
    /// "vxlan" for a peer that we can talk to.
    pub backend_type: String,
    /// One for each family in use, IPv4 first.
    pub sides: Vec<Side>,
}

/// A lease in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// The node's pod CIDR.
    pub subnet: IpNet,
    /// Its outer address.
    pub public_ip: String,
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
    pub fn own(node: &str, devices: &[Device]) -> Lease {
        let side = |device: &Device| Side {
            subnet: device.subnet(),
            public_ip: device.public_ip().to_owned(),
            mac: device.mac().to_owned(),
            vni: device.vni(),
        };
        Lease { node: node.to_owned(), backend_type: "vxlan".to_owned(), sides: devices.iter().map(side).collect() }
    }

    /// Two leases of the same subnets are one and the same to flanneld, whatever the Nodes' names.
    pub fn same_subnet(&self, other: &Lease) -> bool {
        let subnets = |lease: &Lease| lease.sides.iter().map(|side| side.subnet).collect::<Vec<_>>();
        subnets(self) == subnets(other)
    }

    /// Patches nodes/status with our annotations, if they differ from what is there. Done at the start only.
    pub fn publish(&self, api: &dyn Api, node: &Value) -> Result<()> {
        let mut wanted = BTreeMap::from([(BACKEND_TYPE, self.backend_type.clone()), (MANAGED, "true".to_owned())]);
        for side in &self.sides {
            let family = Family::of(side.subnet.addr());
            // Compact, VtepMAC last: flannel's own parser of the stored MAC splits at `:"` and wants two parts.
            let data = format!("{{\"VNI\":{},\"VtepMAC\":\"{}\"}}", side.vni, side.mac);
            wanted.extend([(backend_data(family), data), (public_ip(family), side.public_ip.clone())]);
        }
        if wanted.iter().all(|(key, value)| annotation(node, key) == Some(value)) {
            return Ok(());
        }
        let path = format!("/api/v1/nodes/{}/status", self.node);
        api.patch(&path, &json!({"metadata": {"annotations": wanted}}))
            .map(|_| ())
            .with_context(|| format!("the annotations of Node {} could not be written", self.node))
    }
}

/// The Node's pod CIDR of a family, which must lie in the configured network.
pub fn pod_cidr(node: &Value, net_conf: &NetConf, family: Family) -> Result<IpNet> {
    let Some(cidr) = cidr_of(node, family) else {
        bail!("node {:?} pod cidr not assigned: it has no {family} one", api::name(node));
    };
    let network = net_conf.network_of(family).with_context(|| format!("{family} is not enabled"))?;
    if !network.contains(&cidr) {
        bail!(
            "subnet {cidr} specified in the flannel net config doesn't contain {network:?} PodCIDR of the {:?} node",
            api::name(node)
        );
    }
    Ok(cidr)
}

/// The first pod CIDR of a family.
fn cidr_of(node: &Value, family: Family) -> Option<IpNet> {
    let listed = node["spec"]["podCIDRs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let single = std::iter::once(&node["spec"]["podCIDR"]);
    let all = listed.iter().chain(single).filter_map(|cidr| cidr.as_str()?.parse::<IpNet>().ok());
    all.into_iter().find(|cidr| family.holds(cidr))
}

/// The MAC that our Node's annotation remembers for the device of a family.
pub fn stored_mac(node: &Value, family: Family) -> Option<String> {
    let data: Value = serde_json::from_str(annotation(node, backend_data(family))?).ok()?;
    data["VtepMAC"].as_str().map(str::to_lowercase)
}

/// What the Nodes' new state means, given the last one that was seen.
pub fn changes(families: &[Family], before: &BTreeMap<String, Value>, now: &BTreeMap<String, Value>) -> Vec<Change> {
    let updated = now.iter().filter_map(|(name, node)| match before.get(name) {
        None => lease(families, node).map(Change::Added),
        Some(old) => update(families, old, node).map(Change::Added),
    });
    let deleted = before.iter().filter(|(name, _)| !now.contains_key(*name));
    // The last state that was seen decides: a Node whose annotations were stripped before its deletion leaks its entries.
    updated.chain(deleted.filter_map(|(_, node)| lease(families, node).map(Change::Removed))).collect()
}

/// An update counts only if the Node is managed now and one of the three values differs; and with two families, as upstream,
/// only if one differs in both of them. Removed annotations are no withdrawal.
fn update(families: &[Family], old: &Value, new: &Value) -> Option<Lease> {
    let same = |family: &Family| {
        let keys = [backend_data(*family), BACKEND_TYPE, public_ip(*family)];
        keys.iter().all(|key| annotation(old, key) == annotation(new, key))
    };
    if families.iter().any(same) { None } else { lease(families, new) }
}

/// The lease in a Node's annotations, if flannel would take it for one: a family that is in use and that it lacks spoils it.
fn lease(families: &[Family], node: &Value) -> Option<Lease> {
    if annotation(node, MANAGED) != Some("true") {
        return None;
    }
    let sides: Option<Vec<Side>> = families.iter().map(|family| side(*family, node)).collect();
    if sides.is_none() {
        log(&format!("Error turning node {:?} to lease", api::name(node)));
    }
    Some(Lease {
        node: api::name(node).to_owned(),
        backend_type: annotation(node, BACKEND_TYPE).unwrap_or_default().to_owned(),
        sides: sides?,
    })
}

fn side(family: Family, node: &Value) -> Option<Side> {
    let data: Value = serde_json::from_str(annotation(node, backend_data(family))?).ok()?;
    let address: std::net::IpAddr = annotation(node, public_ip(family))?.parse().ok()?;
    Some(Side {
        subnet: cidr_of(node, family)?,
        public_ip: Some(address).filter(|address| Family::of(*address) == family)?.to_string(),
        mac: data["VtepMAC"].as_str().unwrap_or_default().to_lowercase(),
        vni: data["VNI"].as_u64().unwrap_or(1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(mac: &str, managed: Option<&str>) -> Value {
        let data = format!("{{\"VNI\":1,\"VtepMAC\":\"{mac}\"}}");
        let mut annotations = json!({BACKEND_TYPE: "vxlan", public_ip(Family::V4): "192.168.77.2",
            public_ip(Family::V6): "fd00::2", backend_data(Family::V4): data, backend_data(Family::V6): data});
        if let Some(managed) = managed {
            annotations[MANAGED] = json!(managed);
        }
        json!({"metadata": {"name": "n2", "annotations": annotations}, "spec": {"podCIDR": "10.244.2.0/24", "podCIDRs": ["10.244.2.0/24", "fd00:10:244:2::/64"]}})
    }

    fn seen(before: Option<Value>, now: Option<Value>) -> Vec<Change> {
        let map = |node: Option<Value>| node.into_iter().map(|node| ("n2".to_owned(), node)).collect();
        changes(&[Family::V4], &map(before), &map(now))
    }

    #[test]
    fn a_new_mac_is_taken_over_and_an_unchanged_node_is_not() {
        assert!(matches!(&seen(None, Some(node("0e:aa", Some("true"))))[..], [Change::Added(_)]));
        assert!(seen(Some(node("0e:aa", Some("true"))), Some(node("0e:aa", Some("true")))).is_empty());
        let changed = seen(Some(node("0e:aa", Some("true"))), Some(node("0e:bb", Some("true"))));
        assert!(matches!(&changed[..], [Change::Added(lease)] if lease.sides[0].mac == "0e:bb"));
    }

    #[test]
    fn with_two_families_a_change_of_one_goes_unnoticed() {
        let map = |node: Value| BTreeMap::from([("n2".to_owned(), node)]);
        let dual = |before: Value, now: Value| changes(&Family::BOTH, &map(before), &map(now));
        let (old, both) = (node("0e:aa", Some("true")), node("0e:bb", Some("true")));
        assert!(matches!(&dual(old.clone(), both.clone())[..], [Change::Added(lease)] if lease.sides.len() == 2));
        let mut one = old.clone();
        one["metadata"]["annotations"][backend_data(Family::V4)] =
            both["metadata"]["annotations"][backend_data(Family::V4)].clone();
        assert!(dual(old.clone(), one).is_empty());
        let mut half = old.clone();
        half["metadata"]["annotations"][public_ip(Family::V6)] = Value::Null;
        assert!(changes(&Family::BOTH, &BTreeMap::new(), &map(half)).is_empty(), "a node of one family is no peer");
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
