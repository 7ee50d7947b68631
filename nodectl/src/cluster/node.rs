//! A Node, as far as the preparation looks at it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::Value;

use super::flannel;
use super::object::{annotation, is_ready, items, label, name, text, texts};
use crate::cni::{NODE_LABEL, RUN_ANNOTATION};
use crate::run_note::RunNote;

/// What flannel wrote on a Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlannelNode {
    /// Its backend.
    pub backend: String,
    /// Outer address of its overlay.
    pub public_ip: Ipv4Addr,
    /// MAC of its overlay device.
    pub mac: String,
    /// VXLAN network identifier, where flannel says it.
    pub vni: Option<u64>,
    /// The same of its IPv6 overlay, where it has one.
    pub v6: Option<FlannelNodeV6>,
}

/// What flannel wrote on a Node of its IPv6 overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlannelNodeV6 {
    /// Outer address.
    pub public_ip: Ipv6Addr,
    /// MAC of the device.
    pub mac: String,
    /// VXLAN network identifier, where flannel says it.
    pub vni: Option<u64>,
}

/// A node's end of flannel's overlay in one address family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayEnd {
    /// The node's pod CIDR.
    pub pod_cidr: IpNet,
    /// Outer address of the overlay.
    pub public_ip: IpAddr,
    /// MAC of its device.
    pub mac: String,
}

/// One Node.
#[derive(Debug, Clone)]
pub struct NodeView<'a> {
    /// The Node itself.
    pub object: &'a Value,
    /// Its name.
    pub name: &'a str,
    /// Its IPv4 pod CIDR.
    pub pod_cidr: Option<Ipv4Net>,
    /// Its IPv6 pod CIDR.
    pub pod_cidr6: Option<Ipv6Net>,
    /// What flannel wrote on it.
    pub flannel: Option<FlannelNode>,
    /// The CNI that its label asks for.
    pub wanted: Option<&'a str>,
}

impl<'a> NodeView<'a> {
    /// Looks at a Node.
    pub fn new(object: &'a Value, annotation_prefix: &str) -> NodeView<'a> {
        let mut cidrs = texts(object, "/spec/podCIDRs");
        cidrs.extend(text(object, "/spec/podCIDR").map(str::to_owned));
        NodeView {
            object,
            name: name(object),
            pod_cidr: cidrs.iter().find_map(|c| c.parse::<Ipv4Net>().ok()).map(|c| c.trunc()),
            pod_cidr6: cidrs.iter().find_map(|c| c.parse::<Ipv6Net>().ok()).map(|c| c.trunc()),
            flannel: flannel::on_node(object, annotation_prefix),
            wanted: label(object, NODE_LABEL),
        }
    }

    /// It runs something else than Linux.
    pub fn is_foreign(&self) -> bool {
        label(self.object, "kubernetes.io/os").is_some_and(|os| os != "linux")
    }

    /// Reason of its NetworkUnavailable condition: which agent says that the network is up, or down.
    pub fn network_reason(&self) -> &'a str {
        let conditions = items(self.object, "/status/conditions");
        let condition = conditions.iter().find(|c| text(c, "/type") == Some("NetworkUnavailable"));
        condition.and_then(|c| text(c, "/reason")).unwrap_or_default()
    }

    /// Its addresses as kubelet tells them, the first one first.
    pub fn internal_ips(&self) -> Vec<IpAddr> {
        let addresses = items(self.object, "/status/addresses").iter();
        let internal = addresses.filter(|a| text(a, "/type") == Some("InternalIP"));
        internal.filter_map(|a| text(a, "/address")?.parse().ok()).collect()
    }

    /// Its kubelet says that it is well.
    pub fn is_ready(&self) -> bool {
        is_ready(self.object)
    }

    /// What its nodectl says of the last run there, or why that cannot be read; `None` where it says nothing.
    pub fn run(&self) -> Option<Result<RunNote, String>> {
        annotation(self.object, RUN_ANNOTATION).map(RunNote::parse)
    }

    /// A switch that its nodectl says is not over there, in a few words. To take the shim away is none.
    pub fn open_switch(&self) -> Option<String> {
        let note = self.run()?.ok()?;
        (note.is_open() && !note.is_retirement()).then(|| note.words())
    }

    /// Why nobody can tell from here whether a switch is over there; `None` where it can be told.
    pub fn run_problem(&self) -> Option<String> {
        self.run()?.err()
    }

    /// Why its last switch is not to be taken for over, in a few words.
    pub fn unclosed(&self) -> Option<String> {
        self.open_switch().or_else(|| Some(format!("its last run cannot be read: {}", self.run_problem()?)))
    }

    /// Its IPv4 end of the overlay, where it has what Calico's side needs to know: a pod CIDR and what flannel wrote.
    pub fn end(&self) -> Option<OverlayEnd> {
        let (pod_cidr, flannel) = (self.pod_cidr?, self.flannel.as_ref()?);
        Some(OverlayEnd { pod_cidr: pod_cidr.into(), public_ip: flannel.public_ip.into(), mac: flannel.mac.clone() })
    }

    /// The same of IPv6.
    pub fn end6(&self) -> Option<OverlayEnd> {
        let (pod_cidr, flannel) = (self.pod_cidr6?, self.flannel.as_ref()?.v6.as_ref()?);
        Some(OverlayEnd { pod_cidr: pod_cidr.into(), public_ip: flannel.public_ip.into(), mac: flannel.mac.clone() })
    }
}
