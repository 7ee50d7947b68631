//! flanneld's flags as far as the lab's manifests use them, and net-conf.json.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;

use super::device::OVERHEAD;
use crate::agent::family::Family;
use crate::agent::{self, api};

/// The stand-in for flanneld.
#[derive(Debug, Parser)]
#[command(name = "flanneld")]
pub struct Options {
    /// Contact the Kubernetes API for subnet assignment; the stand-in knows no other way.
    #[arg(long)]
    pub kube_subnet_mgr: bool,
    /// Set up IP masquerade rules for traffic that leaves the pod network.
    #[arg(long)]
    pub ip_masq: bool,
    /// Interface to use for inter-host communication; the one of the default or only route otherwise.
    #[arg(long, default_value = "eth0")]
    pub iface: String,
    /// Seconds between two looks at the iptables rules.
    #[arg(long)]
    pub iptables_resync: Option<f64>,
    /// Write accept rules to the FORWARD chain.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub iptables_forward_rules: bool,
    /// Where network, subnet and MTU are written for the CNI plugin.
    #[arg(long, default_value = "/run/flannel/subnet.env")]
    pub subnet_file: PathBuf,
    /// The network configuration.
    #[arg(long = "net-config-path", default_value = "/etc/kube-flannel/net-conf.json")]
    pub net_conf: PathBuf,
    /// Set NetworkUnavailable=False when ready.
    #[arg(long = "set-node-network-unavailable", default_value_t = true, action = clap::ArgAction::Set)]
    pub set_network_unavailable: bool,
    /// Port for health answers; none if absent or 0.
    #[arg(long)]
    pub healthz_port: Option<u16>,
    /// The release to behave like, such as 0.24, 0.26.7 or 0.27; FLANNELD_VERSION_LIKE says it too.
    #[arg(long)]
    pub version_like: Option<String>,
    /// The parsed release.
    #[arg(skip)]
    pub version: Version,
}

impl Options {
    /// Parses the arguments that follow the program's name.
    pub fn parse(args: &[String]) -> Result<Options> {
        let argv = std::iter::once(OsString::from("flanneld")).chain(args.iter().map(OsString::from));
        let mut options = Options::try_parse_from(argv)?;
        let like = options.version_like.clone().or_else(|| agent::env("FLANNELD_VERSION_LIKE"));
        options.version = Version::parse(like.as_deref().unwrap_or("0.27"))?;
        Ok(options)
    }

    /// How often the iptables rules are looked at: 5 s, as upstream, unless told otherwise.
    pub fn resync(&self) -> Duration {
        let from_env = agent::env("FLANNELD_IPTABLES_RESYNC").and_then(|text| text.parse().ok());
        Duration::from_secs_f64(self.iptables_resync.or(from_env).unwrap_or(5.0).clamp(0.05, 3600.0))
    }

    /// How often the Nodes are looked at. The real one watches; a short poll sees the same changes.
    pub fn poll(&self) -> Duration {
        let usual = if agent::is_unhurried() { 1500 } else { 300 };
        Duration::from_millis(agent::env_number("FLANNELD_POLL_MS", usual).unwrap_or(usual))
    }

    /// The Node this runs on: NODE_NAME, else the node of the Pod named by POD_NAME and POD_NAMESPACE, else the host's name.
    pub fn node_name(&self, api: &dyn api::Api) -> Result<String> {
        if let Some(name) = agent::env("NODE_NAME") {
            return Ok(name);
        }
        let (Some(pod), Some(namespace)) = (agent::env("POD_NAME"), agent::env("POD_NAMESPACE")) else {
            return agent::node_name();
        };
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}");
        let object = api.get(&path).with_context(|| format!("error retrieving pod spec for '{namespace}/{pod}'"))?;
        match api::text(&object, "/spec/nodeName") {
            "" => agent::node_name(),
            name => Ok(name.to_owned()),
        }
    }
}

/// A release of flannel, for the behaviours that changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u64, u64, u64);

impl Version {
    /// Parses `0.26` (the newest of that line) or `0.26.7`.
    pub fn parse(text: &str) -> Result<Version> {
        let numbers: Result<Vec<u64>, _> = text.trim_start_matches('v').split('.').map(str::parse).collect();
        match numbers.as_deref() {
            Ok([major, minor]) => Ok(Version(*major, *minor, 99)),
            Ok([major, minor, patch]) => Ok(Version(*major, *minor, *patch)),
            _ => bail!("{text:?} is no flannel release. To fix it: give one such as 0.27 or 0.26.7"),
        }
    }

    /// v0.25.0 to v0.26.7 remove their iptables rules on SIGTERM.
    pub fn removes_rules_on_exit(self) -> bool {
        self >= Version(0, 25, 0) && self < Version(0, 27, 0)
    }

    /// From v0.27.4 a deleted device is created again.
    pub fn watches_device(self) -> bool {
        self >= Version(0, 27, 4)
    }

    /// From v0.24.1 the MAC in the Node's annotation is used again.
    pub fn keeps_mac(self) -> bool {
        self >= Version(0, 24, 1)
    }

    /// From v0.25.2 that of the IPv6 device too.
    pub fn keeps_mac_v6(self) -> bool {
        self >= Version(0, 25, 2)
    }
}

/// net-conf.json.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetConf {
    /// The pod network of the whole cluster.
    pub network: Ipv4Net,
    /// Dual stack.
    #[serde(rename = "EnableIPv6", default)]
    pub enable_ipv6: bool,
    /// The IPv6 pod network; it counts only where IPv6 is enabled.
    #[serde(rename = "IPv6Network", default)]
    pub ipv6_network: Option<Ipv6Net>,
    /// The backend; only vxlan is known here.
    #[serde(default)]
    pub backend: Backend,
}

/// The backend section of net-conf.json.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Backend {
    /// "vxlan".
    #[serde(rename = "Type")]
    pub kind: String,
    /// VXLAN network identifier.
    #[serde(rename = "VNI")]
    pub vni: u64,
    /// UDP port; 0 is the kernel's own default.
    pub port: u64,
    /// The MTU of the nodes' own network, which the overlay's header is taken off; 0 is that of the external interface.
    #[serde(rename = "MTU")]
    pub mtu: u64,
}

impl Default for Backend {
    fn default() -> Backend {
        Backend { kind: "vxlan".to_owned(), vni: 1, port: 0, mtu: 0 }
    }
}

impl Backend {
    /// The MTU of the overlay, and of pods, where the external interface has this one.
    pub fn overlay_mtu(&self, external: u64) -> u64 {
        (if self.mtu == 0 { external } else { self.mtu }).saturating_sub(OVERHEAD)
    }

    /// The port in use: the kernel's historic default 8472 where none is configured.
    pub fn effective_port(&self) -> u64 {
        if self.port == 0 { 8472 } else { self.port }
    }
}

impl NetConf {
    /// The families in use.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        Family::BOTH.into_iter().filter(|family| self.network_of(*family).is_some())
    }

    /// A family's pod network, where it is in use.
    pub fn network_of(&self, family: Family) -> Option<IpNet> {
        match family {
            Family::V4 => Some(self.network.into()),
            Family::V6 => self.ipv6_network.filter(|_| self.enable_ipv6).map(IpNet::from),
        }
    }

    /// Reads net-conf.json, or FLANNEL_NET_CONF, or falls back to the lab's network.
    pub fn read(path: &Path) -> Result<NetConf> {
        let text = match (std::fs::read_to_string(path), agent::env("FLANNEL_NET_CONF")) {
            (Ok(text), _) => text,
            (Err(_), Some(text)) => text,
            (Err(_), None) => r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#.to_owned(),
        };
        let parsed: NetConf = serde_json::from_str(&text)
            .with_context(|| format!("{} is no flannel network configuration", path.display()))?;
        if parsed.backend.kind != "vxlan" {
            bail!("the backend {:?} is not known to this stand-in. To fix it: use vxlan", parsed.backend.kind);
        }
        if parsed.enable_ipv6 && parsed.ipv6_network.is_none() {
            bail!("please define a correct IPv6Network parameter in the flannel net config");
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_differ_where_flannel_changed() {
        let version = |text| Version::parse(text).unwrap();
        assert!(!version("0.24").removes_rules_on_exit() && version("0.24").keeps_mac());
        assert!(version("0.25.0").removes_rules_on_exit() && version("0.26").removes_rules_on_exit());
        assert!(!version("0.27").removes_rules_on_exit() && version("0.27").watches_device());
        assert!(!version("0.27.3").watches_device() && !version("0.24.0").keeps_mac());
        assert!(!version("0.25.1").keeps_mac_v6() && version("0.25.2").keeps_mac_v6());
    }

    #[test]
    fn ipv6_is_in_use_only_where_it_is_enabled() {
        let families = |text: &str| serde_json::from_str::<NetConf>(text).unwrap().families().count();
        assert_eq!(families(r#"{"Network":"10.244.0.0/16","IPv6Network":"fd00:10:244::/56"}"#), 1);
        assert_eq!(families(r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:244::/56"}"#), 2);
    }
}
