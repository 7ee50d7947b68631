//! What re-plumbing must know of a pod. Plain data, kept in the journal.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cni_store::evidence::calico_interface;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::host_side::usual_metric;
use crate::facts::Route;

/// Calico's gateway address in every pod; nothing has it, the MAC behind it is the host's.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The same in IPv6: the link-local address that belongs to [`super::CALICO_MAC`].
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);

/// How a device gets another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// While it is up (Linux 6.2 and later).
    Live,
    /// Only while it is down.
    Down,
}

/// A pod's network as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNetwork {
    /// `namespace/name` of the pod.
    pub pod: String,
    /// Its interface, in its own namespace.
    pub ifname: String,
    /// That interface's MAC.
    pub mac: String,
    /// MTU of both ends.
    pub mtu: u32,
    /// The other end, on the host.
    pub host: String,
    /// That end's MAC.
    pub host_mac: String,
    /// The bridge that the other end is a port of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// As a port: sends frames back out of the port they came from.
    #[serde(default)]
    pub hairpin: bool,
    /// The pod's addresses, link-local ones left out.
    pub addresses: Vec<IpNet>,
    /// The pod's routes over its interface, without those that come with an address.
    pub routes: Vec<Route>,
    /// Kernel parameters of the host's end that an adoption changes, by dotted name.
    pub sysctls: BTreeMap<String, String>,
    /// `net.ipv4.conf.all.rp_filter` in the pod.
    pub rp_filter: String,
}

/// Whether a route leads to everything, as the one does that re-plumbing puts another in the place of.
pub fn is_default(route: &Route) -> bool {
    route.dst.prefix_len() == 0 && route.metric == usual_metric(route.dst.addr()) && route.table == 254
}

impl PodNetwork {
    /// Its addresses without their prefix lengths.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(IpNet::addr)
    }

    /// True if it has an IPv6 address.
    pub fn has_ipv6(&self) -> bool {
        self.ips().any(|ip| ip.is_ipv6())
    }
}

/// Eleven hex digits for a pod (`namespace/name`), for the names of devices of our own: as Calico draws them.
pub(super) fn short_name(pod: &str) -> String {
    let (namespace, name) = pod.split_once('/').unwrap_or(("", pod));
    calico_interface("", namespace, name)
}

/// The name of a port of flannel's bridge for a pod (`namespace/name`), in the shape that the bridge plugin gives.
pub(super) fn port_name(pod: &str) -> String {
    format!("veth{}", &short_name(pod)[..8])
}

/// A MAC of our own for a device of a pod (`namespace/name`): locally administered, one host.
pub(super) fn port_mac(pod: &str) -> String {
    let digest = short_name(pod);
    let pairs: Vec<&str> = (0..5).map(|n| &digest[2 * n..2 * n + 2]).collect();
    format!("0e:{}", pairs.join(":"))
}

/// An address's only host route's length.
pub(super) fn alone(ip: IpAddr) -> IpNet {
    IpNet::from(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_calico_draws_them_and_an_address_stands_alone() {
        assert_eq!(short_name("default/nginx"), "c440f455693");
        assert_eq!(
            (port_name("default/nginx").as_str(), port_mac("default/nginx").as_str()),
            ("vethc440f455", "0e:c4:40:f4:55:69")
        );
        assert_eq!(alone("10.1.0.2".parse().unwrap()).to_string(), "10.1.0.2/32");
    }
}
