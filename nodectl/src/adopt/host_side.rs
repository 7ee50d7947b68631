//! The host's route, neighbour entry and kernel parameters for a pod, whatever device leads to it.

use std::net::IpAddr;

use super::operation::{At, Operation, on_host};
use super::pod::alone;
use crate::facts::{Neighbour, Route, RouteKind};

/// The metric of IPv6 routes that are added without one, and of felix's.
pub(super) const IPV6_METRIC: u32 = 1024;

/// The metric of a route that is added without one.
pub(super) fn usual_metric(ip: IpAddr) -> u32 {
    if ip.is_ipv4() { 0 } else { IPV6_METRIC }
}

/// The parameters that Calico's plugin and felix set on a pod's host interface, as (family, table, name, value).
const CALICO: [(&str, &str, &str, &str); 9] = [
    ("ipv4", "conf", "route_localnet", "1"),
    ("ipv4", "neigh", "proxy_delay", "0"),
    ("ipv4", "conf", "proxy_arp", "1"),
    ("ipv4", "conf", "forwarding", "1"),
    ("ipv6", "conf", "accept_ra", "0"),
    ("ipv6", "conf", "disable_ipv6", "0"),
    ("ipv6", "conf", "accept_dad", "0"),
    ("ipv6", "conf", "proxy_ndp", "1"),
    ("ipv6", "conf", "forwarding", "1"),
];

/// Names and values of those parameters for an interface; those that only a pod with IPv6 needs left out where it has none.
pub(super) fn calico_sysctls(interface: &str, ipv6: bool) -> Vec<(String, String)> {
    let wanted = CALICO.iter().filter(|(family, _, name, _)| ipv6 || *family == "ipv4" || *name == "accept_ra");
    let full = |(family, table, name, value): &(&str, &str, &str, &str)| {
        (format!("net.{family}.{table}.{}.{name}", interface.replace('.', "/")), (*value).to_owned())
    };
    wanted.map(full).collect()
}

/// The same as operations.
pub(super) fn set_sysctls(values: impl IntoIterator<Item = (String, String)>) -> Vec<At> {
    values.into_iter().map(|(name, value)| on_host(Operation::Sysctl { name, value })).collect()
}

/// The host's route to a pod's address over a device.
pub(super) fn route(ip: IpAddr, dev: &str, metric: u32) -> Route {
    Route {
        dst: alone(ip),
        dev: Some(dev.to_owned()),
        via: None,
        src: None,
        table: 254,
        proto: 3,
        // IPv6 has no scopes.
        scope: if ip.is_ipv4() { 253 } else { 0 },
        kind: RouteKind::Unicast,
        metric: if ip.is_ipv4() { metric } else { IPV6_METRIC },
        onlink: false,
        mtu: None,
    }
}

/// A neighbour entry.
pub(super) fn neighbour(link: &str, address: IpAddr, mac: &str) -> Neighbour {
    Neighbour { link: link.to_owned(), address, mac: mac.to_owned() }
}

/// The host finds the pod's MAC without asking, and then the pod over this device.
pub(super) fn lead(ips: impl Iterator<Item = IpAddr>, dev: &str, mac: &str) -> Vec<At> {
    let both = |ip: IpAddr| {
        [Operation::SetNeighbour(neighbour(dev, ip, mac)), Operation::SetRoute(route(ip, dev, 0))].map(on_host)
    };
    ips.flat_map(both).collect()
}
