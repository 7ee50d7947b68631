//! What `cluster prepare` tells a node about its cluster: a node's own credentials read no DaemonSet, no custom
//! resource and no other Node, so all that a node must know stands in an annotation on its own Node.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::cni::Cni;

/// Version of the annotation that this build writes and reads.
pub const PREPARED_VERSION: u32 = 1;

/// The value of the annotation `nodectl.io/prepared`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    /// Version of this form, [`PREPARED_VERSION`].
    pub version: u32,
    /// `flannel-to-calico`; the way back uses the same preparation.
    pub direction: String,
    /// Address families of the pod network: `ipv4`, `ipv6`.
    pub families: Vec<String>,
    /// flannel's network, which is also Calico's pool.
    pub cluster_cidr: IpNet,
    /// This node's pod CIDR.
    pub pod_cidr: IpNet,
    /// VXLAN network identifier of the overlay.
    pub vni: u32,
    /// UDP port of the overlay.
    pub port: u16,
    /// MTU of pods and of the IPv4 overlay, in bytes.
    pub mtu: u32,
    /// Pods are masqueraded towards the outside.
    pub masquerade: bool,
    /// This node's end of the overlay.
    pub vtep: Vtep,
    /// The same of IPv6, where flannel carries it beside IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Half>,
    /// flannel's part is played by Canal: a calico-node for policy alone stands beside flanneld in its pods, and Calico's plugin makes
    /// their network, with host-local's addresses.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub canal: bool,
    /// How flannel is installed in the cluster.
    pub flannel: AgentInfo,
    /// How Calico is installed in the cluster.
    pub calico: AgentInfo,
    /// What to probe besides peers.
    #[serde(default)]
    pub probe: ProbeTargets,
    /// Names of the checks that prepare made.
    #[serde(default)]
    pub checks: Vec<String>,
    /// User that ran prepare.
    #[serde(default)]
    pub prepared_by: String,
    /// When, RFC 3339.
    #[serde(default)]
    pub prepared_at: String,
}

/// What is another in IPv6. VNI and UDP port are the same, the MTU is less by [`IPV6_OVERHEAD`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv6Half {
    /// flannel's network, which is also Calico's pool.
    pub cluster_cidr: IpNet,
    /// This node's pod CIDR.
    pub pod_cidr: IpNet,
    /// This node's end of the overlay.
    pub vtep: Vtep,
}

/// What the header of IPv6 takes more than that of IPv4, in bytes: so much less is the MTU of an overlay with IPv6 outside. The
/// kernel gives flannel's device that by itself and refuses felix more (vxlan_change_mtu).
pub const IPV6_OVERHEAD: u32 = 20;

/// A node's VXLAN tunnel endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vtep {
    /// Address of the tunnel device: the base of the pod CIDR.
    pub address: IpAddr,
    /// MAC of the tunnel device.
    pub mac: String,
    /// Outer address.
    pub public_ip: IpAddr,
}

/// How one CNI's agent is installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// Namespace of its DaemonSet.
    pub namespace: String,
    /// Name of its DaemonSet.
    pub daemonset: String,
    /// Version, where it could be read from the image tag.
    #[serde(default)]
    pub version: String,
    /// Images of its pod template, init containers included.
    #[serde(default)]
    pub images: Vec<String>,
    /// Network name in its conflist.
    pub network: String,
    /// File name of its conflist.
    pub conflist: String,
    /// Prefix of its pods' host interfaces (Calico).
    #[serde(default)]
    pub interface_prefix: String,
    /// Metric of its pod routes (Calico: 0 up to 3.31, 1024 from 3.32); `None` where unknown.
    #[serde(default)]
    pub route_metric: Option<u32>,
}

/// Targets of the probes besides the node's peers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeTargets {
    /// A service as `address:port` that answers TCP (the API server's own service).
    #[serde(default)]
    pub service: String,
    /// The cluster's DNS service as `address:port`; empty where there is none.
    #[serde(default)]
    pub dns: String,
}

/// What a node has of the overlay in one address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Half<'a> {
    /// flannel's network.
    pub cluster_cidr: IpNet,
    /// This node's pod CIDR.
    pub pod_cidr: IpNet,
    /// This node's end of the overlay.
    pub vtep: &'a Vtep,
}

impl Half<'_> {
    /// MTU of the overlay, where pods have this one.
    pub fn overlay_mtu(&self, mtu: u32) -> u32 {
        if self.is_ipv6() { mtu.saturating_sub(IPV6_OVERHEAD) } else { mtu }
    }

    /// It is the IPv6 one.
    pub fn is_ipv6(&self) -> bool {
        self.pod_cidr.addr().is_ipv6()
    }
}

impl Prepared {
    /// What the node has in each family that flannel carries, IPv4 first.
    pub fn halves(&self) -> impl Iterator<Item = Half<'_>> {
        let v4 = Half { cluster_cidr: self.cluster_cidr, pod_cidr: self.pod_cidr, vtep: &self.vtep };
        let v6 = self.ipv6.as_ref();
        let v6 = v6.map(|v6| Half { cluster_cidr: v6.cluster_cidr, pod_cidr: v6.pod_cidr, vtep: &v6.vtep });
        std::iter::once(v4).chain(v6)
    }

    /// What is known of a CNI's agent.
    pub fn agent(&self, cni: Cni) -> &AgentInfo {
        match cni {
            Cni::Flannel => &self.flannel,
            Cni::Calico => &self.calico,
        }
    }

    /// Parses the annotation. Errors name the version or the field that does not fit.
    pub fn parse(text: &str) -> Result<Prepared, String> {
        versioned(text, PREPARED_VERSION)
    }
}

/// Parses a document that names its version in `version`. Errors name the version or the field that does not fit.
pub fn versioned<T: serde::de::DeserializeOwned>(text: &str, known: u32) -> Result<T, String> {
    let document: serde_json::Value = serde_json::from_str(text).map_err(|e| format!("it is not JSON: {e}"))?;
    let version = document.get("version").and_then(serde_json::Value::as_u64);
    if version != Some(u64::from(known)) {
        let found = version.map_or_else(|| "no version".to_owned(), |v| format!("version {v}"));
        return Err(format!("it has {found}, this nodectl reads version {known}"));
    }
    serde_json::from_str(text).map_err(|e| format!("it does not parse: {e}"))
}
