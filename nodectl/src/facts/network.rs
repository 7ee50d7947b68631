//! The kernel's network objects, in a form in which they can be compared and put back.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The kernel's network objects in this network namespace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Every link, found by one full dump (a look-up of `tunl0` by name would load a module).
    pub links: Vec<Link>,
    /// Every address.
    pub addresses: Vec<Address>,
    /// Routes of every table but `local`.
    pub routes: Vec<Route>,
    /// Policy rules.
    pub rules: Vec<Rule>,
    /// Permanent neighbour entries (ARP and NDP).
    pub neighbours: Vec<Neighbour>,
    /// Permanent forwarding entries of VXLAN devices (`bridge fdb ... self permanent`).
    pub fdb: Vec<FdbEntry>,
}

/// A network device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Link {
    /// Interface name.
    pub name: String,
    /// `veth`, `bridge`, `vxlan`, ...; empty for a physical device.
    pub kind: String,
    /// MAC address, lower case with colons; empty where there is none.
    pub mac: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Carrier is there (operational state up or unknown).
    pub running: bool,
    /// Name of the master (bridge) device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// For a veth whose peer is in another namespace: that peer's index there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_index: Option<u32>,
    /// VXLAN attributes, for a device of that kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vxlan: Option<Vxlan>,
    /// An XDP program is attached.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub xdp: bool,
}

/// Attributes of a VXLAN device that felix and flanneld compare before they keep one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Vxlan {
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// Local outer address.
    pub local: Option<IpAddr>,
    /// Name of the underlying device.
    pub parent: Option<String>,
    /// Whether the device learns forwarding entries (`nolearning` is false).
    pub learning: bool,
    /// Group-policy extension.
    pub gbp: bool,
}

impl Vxlan {
    /// Its outer packets are IPv6.
    pub fn is_ipv6(&self) -> bool {
        self.local.is_some_and(|local| local.is_ipv6())
    }
}

/// An address of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Interface name.
    pub link: String,
    /// Address with its prefix length.
    pub address: IpNet,
}

/// What a route does with a packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteKind {
    /// Forward or deliver.
    #[default]
    Unicast,
    /// Drop silently.
    Blackhole,
    /// Drop and tell the sender.
    Unreachable,
    /// Go on with the next rule.
    Throw,
    /// Drop, administratively forbidden.
    Prohibit,
    /// Anything else (local, broadcast, ...).
    Other,
}

/// A route, in the form in which it can be put back.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Route {
    /// Destination; `0.0.0.0/0` is the default route.
    pub dst: IpNet,
    /// Output device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<String>,
    /// Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// Preferred source address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src: Option<IpAddr>,
    /// Table id; 254 is main.
    pub table: u32,
    /// rtm_protocol: 2 kernel, 3 boot, 4 static, 12 bird, 80 felix.
    pub proto: u8,
    /// rtm_scope: 0 universe, 253 link, 254 host.
    pub scope: u8,
    /// What the route does.
    pub kind: RouteKind,
    /// Metric; 0 where none is set.
    pub metric: u32,
    /// The gateway is taken to be on the link.
    pub onlink: bool,
    /// MTU attribute of the route, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// A policy rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// 4 or 6.
    pub family: u8,
    /// Priority.
    pub priority: u32,
    /// Table it points to.
    pub table: u32,
    /// fwmark and mask.
    pub fwmark: Option<(u32, u32)>,
    /// rtprot of the rule.
    pub proto: u8,
    /// Holds for packets that do not match.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub invert: bool,
    /// Looks at more than the mark (addresses, devices, ports, ...), which is not kept here.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub selective: bool,
}

/// A permanent neighbour entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Interface name.
    pub link: String,
    /// Protocol address.
    pub address: IpAddr,
    /// MAC address.
    pub mac: String,
}

/// A permanent forwarding entry of a VXLAN device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdbEntry {
    /// Interface name.
    pub link: String,
    /// Inner MAC address.
    pub mac: String,
    /// Outer address it is sent to.
    pub dst: IpAddr,
}

impl Network {
    /// The link of this name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|l| l.name == name)
    }

    /// The VXLAN device with this identifier and port whose outer packets are IPv4, or IPv6: the kernel allows one of each.
    pub fn overlay(&self, vni: u32, port: u16, ipv6: bool) -> Option<&Link> {
        let is_it = |v: &Vxlan| v.vni == vni && v.port == port && v.is_ipv6() == ipv6;
        self.links.iter().find(|l| l.vxlan.as_ref().is_some_and(is_it))
    }
}
