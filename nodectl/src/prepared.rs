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
    /// MTU of pods, in bytes.
    pub mtu: u32,
    /// Pods are masqueraded towards the outside.
    pub masquerade: bool,
    /// This node's end of the overlay.
    pub vtep: Vtep,
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

impl Prepared {
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
