//! From a Calico interface back to a port of the bridge: the operations, in order. Pure.
//!
//! `now` is the pod as it stands, `was` as it is to be: what was read before it was adopted, or made up for a pod that
//! Calico made.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::CALICO_MAC;
use super::detour;
use super::host_side::{self, neighbour, route, set_sysctls};
use super::operation::{At, Operation, in_pod, on_host};
use super::pod::{PodNetwork, Way, alone, is_default, port_mac, port_name};
use super::to_calico::{gateway, link_local, to_gateway};
use crate::facts::{Address, Route};
use crate::host::netlink::LinkChange;
use ipnet::IpNet;

/// flannel's bridge.
const BRIDGE: &str = "cni0";

/// The network that a pod of Calico's will have as a port of flannel's bridge: the name, the MAC and the routes as the bridge
/// plugin would have chosen them; `routes` are the networks that it reaches by way of the bridge.
pub fn port_of(now: &PodNetwork, pod_cidr: IpNet, routes: &[IpNet]) -> PodNetwork {
    let gateway = pod_cidr.hosts().next().unwrap_or_else(|| pod_cidr.addr());
    let over = |dst: &IpNet| Route {
        dst: *dst,
        scope: 0,
        via: Some(gateway),
        ..super::to_calico::default_route(gateway, &now.ifname)
    };
    let routes = routes.iter().map(over).collect();
    let address = |ip: IpAddr| IpNet::new(ip, pod_cidr.prefix_len()).unwrap_or(IpNet::from(ip));
    PodNetwork {
        host: port_name(&now.pod),
        host_mac: port_mac(&now.pod),
        bridge: Some(BRIDGE.into()),
        addresses: now.ips().map(address).collect(),
        routes,
        ..now.clone()
    }
}

/// Before the first sweep: the pod asks nobody for its gateway any more. Calico's plugin leaves that to proxy ARP on the very
/// interface that becomes a port.
pub fn pin_gateway(now: &PodNetwork) -> Vec<At> {
    now.ips().map(|ip| in_pod(Operation::SetNeighbour(neighbour(&now.ifname, gateway(ip), CALICO_MAC)))).collect()
}

/// First sweep: into the bridge, under its former name, while the host's own route still leads to the pod.
pub fn attach(now: &PodNetwork, was: &PodNetwork, way: Way) -> Vec<At> {
    let join = LinkChange {
        rename: Some(was.host.clone()),
        master: was.bridge.clone(),
        hairpin: Some(was.hairpin),
        ..LinkChange::default()
    };
    let mut operations = Vec::new();
    if now.has_ipv6() {
        operations.push(on_host(Operation::DeleteAddress(link_local(&now.host))));
    }
    operations.extend(detour::around(now, &was.host, join, way));
    // The metric that later versions of felix want: the bridge's route has none.
    let later = now.ips().filter(IpAddr::is_ipv4).map(|ip| route(ip, &was.host, host_side::IPV6_METRIC));
    operations.extend(later.map(|route| on_host(Operation::DeleteRoute(route))));
    operations.extend(set_sysctls(was.sysctls.clone()));
    operations
}

/// Second sweep: the pod has its subnet again and reaches its neighbours on the bridge.
pub fn unturn(was: &PodNetwork) -> Vec<At> {
    let mut operations = Vec::new();
    let dev = was.ifname.as_str();
    for address in &was.addresses {
        let (ip, full) = (address.addr(), Address { link: dev.to_owned(), address: *address });
        operations.push(in_pod(match ip {
            IpAddr::V4(_) => Operation::AddAddress(full),
            IpAddr::V6(_) => Operation::PrefixRoute { address: full, on: true },
        }));
        let family = || was.routes.iter().filter(|r| r.dst.addr().is_ipv4() == ip.is_ipv4());
        // An entry from the pod's former time on a bridge that was made anew since would be tried for seconds first.
        let gateways: BTreeSet<IpAddr> = family().filter_map(|route| route.via).collect();
        operations
            .extend(gateways.into_iter().map(|via| in_pod(Operation::DeleteNeighbour(neighbour(dev, via, &was.mac)))));
        operations.extend(family().map(|route| in_pod(Operation::SetRoute(route.clone()))));
        if ip.is_ipv4() && address.prefix_len() != alone(ip).prefix_len() {
            operations.push(in_pod(Operation::DeleteAddress(Address { link: dev.to_owned(), address: alone(ip) })));
            operations.push(in_pod(Operation::DeleteRoute(to_gateway(dev))));
        }
        // Where the pod had none of its own, which would have taken its place.
        if !family().any(is_default) {
            operations.push(in_pod(Operation::DeleteRoute(super::to_calico::default_route(ip, dev))));
        }
        operations.push(in_pod(Operation::DeleteNeighbour(neighbour(dev, gateway(ip), CALICO_MAC))));
    }
    operations
}

/// Third sweep: the bridge's own route leads to the pod again.
pub fn unguide(was: &PodNetwork) -> Vec<At> {
    let mut operations = Vec::new();
    for ip in was.ips() {
        operations.push(on_host(Operation::DeleteRoute(route(ip, &was.host, 0))));
        operations.push(on_host(Operation::DeleteNeighbour(neighbour(&was.host, ip, &was.mac))));
    }
    let mac = LinkChange { mac: Some(was.host_mac.clone()), ..LinkChange::default() };
    operations.push(on_host(Operation::SetLink { name: was.host.clone(), change: mac }));
    operations
}
