//! From a port of the bridge to a Calico interface: the operations, in order. Pure.

use std::net::IpAddr;

use super::CALICO_MAC;
use super::detour;
use super::host_side::{self, calico_sysctls, lead, neighbour, route, set_sysctls};
use super::operation::{At, Operation, in_pod, on_host};
use super::pod::{GATEWAY, GATEWAY6, PodNetwork, Way, alone};
use crate::facts::{Address, Link, Route, RouteKind};
use crate::host::netlink::LinkChange;
use crate::host::sysctl;
use ipnet::IpNet;

/// Makes the bridge ready: once a node, before the first pod.
pub fn bridge(bridge: &Link) -> Vec<At> {
    let parameter = |name: &str| sysctl::of_interface("ipv4", &bridge.name, name);
    let set = |name: &str, value: &str| on_host(Operation::Sysctl { name: parameter(name), value: value.into() });
    vec![
        // A bridge takes its ports' lowest MAC unless it was given one, and its pods would have to ask for the new one.
        on_host(Operation::SetLink {
            name: bridge.name.clone(),
            change: LinkChange { mac: Some(bridge.mac.clone()), ..LinkChange::default() },
        }),
        // A pod that was not turned yet asks on the bridge for one that has left it.
        set("proxy_arp", "1"),
        // A pod must not be told to send directly to another one: that one leaves.
        set("send_redirects", "0"),
        // Packets come in over the bridge from pods to which a route over another device leads.
        set("rp_filter", "2"),
    ]
}

/// First sweep: the host reaches the pod over the pod's own interface, which is still a port of the bridge.
pub fn guide(pod: &PodNetwork) -> Vec<At> {
    // Frames to a port's own MAC are for the bridge itself, so the pod may send there what is for the host.
    let mac = LinkChange { mac: Some(CALICO_MAC.into()), ..LinkChange::default() };
    let mut operations = vec![on_host(Operation::SetLink { name: pod.host.clone(), change: mac })];
    operations.extend(lead(pod.ips(), &pod.host, &pod.mac));
    operations
}

/// Second sweep: the pod reaches everything by way of the host. Its address is never missing.
pub fn turn(pod: &PodNetwork) -> Vec<At> {
    let mut operations = Vec::new();
    for address in &pod.addresses {
        let (dev, ip) = (pod.ifname.as_str(), address.addr());
        let gateway = gateway(ip);
        operations.push(in_pod(Operation::SetNeighbour(neighbour(dev, gateway, CALICO_MAC))));
        if ip.is_ipv4() {
            operations.push(in_pod(Operation::SetRoute(to_gateway(dev))));
        }
        operations.push(in_pod(Operation::SetRoute(default_route(ip, dev))));
        let now = Address { link: dev.to_owned(), address: *address };
        if ip.is_ipv4() {
            operations.push(in_pod(Operation::AddAddress(Address { address: alone(ip), ..now.clone() })));
        }
        let own = pod.routes.iter().filter(|r| r.dst.addr().is_ipv4() == ip.is_ipv4() && r.dst.prefix_len() > 0);
        operations.extend(own.map(|route| in_pod(Operation::DeleteRoute(route.clone()))));
        operations.push(in_pod(match ip {
            _ if address.prefix_len() == alone(ip).prefix_len() => continue,
            IpAddr::V4(_) => Operation::DeleteAddress(now),
            // IPv6 refuses the same address with another length beside the first.
            IpAddr::V6(_) => Operation::PrefixRoute { address: now, on: false },
        }));
    }
    operations
}

/// Third sweep: out of the bridge, under the name that felix looks for, with what felix would give it. `metric` is that of
/// the host's IPv4 routes that the felix at hand wants; where it is not known, both are set.
pub fn detach(pod: &PodNetwork, name: &str, metric: Option<u32>, way: Way) -> Vec<At> {
    let leave = LinkChange { rename: Some(name.to_owned()), nomaster: true, ..LinkChange::default() };
    // Before it leaves the bridge: from then on it must forward by itself.
    let mut operations = set_sysctls(calico_sysctls(&pod.host, pod.has_ipv6()));
    operations.extend(detour::around(pod, name, leave, way));
    if pod.has_ipv6() {
        operations.push(on_host(Operation::AddAddress(link_local(name))));
    }
    operations.extend(with_metric(pod, name, metric));
    operations
}

/// The host's IPv4 routes over a device, with the metric that felix wants; the other is set first and taken away last.
fn with_metric(pod: &PodNetwork, dev: &str, metric: Option<u32>) -> Vec<At> {
    let mut operations = Vec::new();
    for ip in pod.ips().filter(IpAddr::is_ipv4) {
        match metric {
            Some(0) => {}
            Some(metric) => {
                operations.push(on_host(Operation::SetRoute(route(ip, dev, metric))));
                operations.push(on_host(Operation::DeleteRoute(route(ip, dev, 0))));
            }
            None => operations.push(on_host(Operation::SetRoute(route(ip, dev, host_side::IPV6_METRIC)))),
        }
    }
    operations
}

/// Calico's gateway for an address's family.
pub(super) fn gateway(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() { GATEWAY.into() } else { GATEWAY6.into() }
}

/// The host's end of an IPv6 pod's interface has the gateway's address.
pub(super) fn link_local(dev: &str) -> Address {
    Address {
        link: dev.to_owned(),
        address: IpNet::new(GATEWAY6.into(), 64).unwrap_or(IpNet::from(IpAddr::from(GATEWAY6))),
    }
}

/// In the pod: the way to Calico's gateway.
pub(super) fn to_gateway(dev: &str) -> Route {
    Route { dst: alone(GATEWAY.into()), via: None, scope: 253, ..default_route(GATEWAY.into(), dev) }
}

/// In the pod: everything goes to Calico's gateway.
pub(super) fn default_route(ip: IpAddr, dev: &str) -> Route {
    let any: IpAddr = if ip.is_ipv4() { [0u8; 4].into() } else { [0u8; 16].into() };
    Route {
        dst: IpNet::new(any, 0).unwrap_or(IpNet::from(any)),
        dev: Some(dev.to_owned()),
        via: Some(gateway(ip)),
        src: None,
        table: 254,
        proto: 3,
        scope: 0,
        kind: RouteKind::Unicast,
        metric: host_side::usual_metric(ip),
        onlink: false,
        mtu: None,
    }
}
