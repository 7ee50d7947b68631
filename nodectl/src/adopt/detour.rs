//! The way around an interface that changes hands: a veth pair of our own into the same pod carries its traffic meanwhile. Pure.
//!
//! A port that joins or leaves its bridge drops what the pod sends for an instant: its state is "disabled" before the bridge's
//! handler is gone, and after it has come (`br_stp_disable_port` in `del_nbp`, `br_add_if`). That takes some 50 microseconds,
//! and where the kernel filters VLANs an RCU grace period. Before Linux 6.2, to be renamed, it must even go down.
//!
//! What goes to the pod loses nothing by that as long as the interface is up, so the host goes around it only where it must: a
//! connection that it begins has the source that the route gives it, and what is masqueraded is forgotten when its device goes
//! (`nf_nat_oif_changed`, `masq_device_event`).

use ipnet::IpNet;

use super::CALICO_MAC;
use super::host_side::{calico_sysctls, lead, neighbour, route, set_sysctls};
use super::operation::{At, Operation, in_pod, on_host};
use super::pod::{PodNetwork, Way, alone, short_name};
use super::to_calico::{default_route, gateway, to_gateway};
use crate::facts::{Address, Route};
use crate::host::netlink::LinkChange;
use crate::host::sysctl;

/// Our end in the pod.
const INSIDE: &str = "nodectl0";
/// Its MAC; there is one in each pod, and nobody else is on its line.
const INSIDE_MAC: &str = "0e:6e:6f:64:65:00";
/// The kernel takes loose reverse-path filtering on a device without any IPv4 address for a drop, unless the very route back
/// leads over that device: our end on the host has this one meanwhile.
const OUTSIDE: [u8; 4] = [169, 254, 1, 3];

/// What the pod sends goes over our pair, what it is sent too where its interface must go down; that changes; everything goes
/// back, our pair goes. The pod has been turned: its traffic goes to Calico's gateway.
pub(super) fn around(pod: &PodNetwork, name: &str, change: LinkChange, way: Way) -> Vec<At> {
    let outside = format!("nod{}", short_name(&pod.pod));
    let mut operations = open(pod, &outside);
    operations.extend(onto(pod, INSIDE));
    if way == Way::Down {
        operations.extend(divert(pod, &outside));
    }
    operations.push(on_host(Operation::Settle));
    operations.extend(match way {
        Way::Live => vec![set_link(&pod.host, change)],
        Way::Down => vec![
            set_link(&pod.host, LinkChange { down: true, ..LinkChange::default() }),
            set_link(&pod.host, change),
            set_link(name, up()),
        ],
    });
    // The host's traffic comes back first: the pod's may still take our pair. Down has dropped the neighbour entries.
    operations.extend(lead(pod.ips(), name, &pod.mac));
    operations.extend(onto(pod, &pod.ifname));
    operations.push(on_host(Operation::Settle));
    operations.push(on_host(Operation::DeleteLink { name: outside }));
    operations.push(rp_filter(&pod.rp_filter));
    operations
}

/// Makes our pair, ready to carry.
fn open(pod: &PodNetwork, outside: &str) -> Vec<At> {
    let ipv6 = pod.has_ipv6();
    let mut operations = vec![on_host(Operation::AddVeth {
        name: outside.to_owned(),
        mac: CALICO_MAC.into(),
        peer: INSIDE.into(),
        peer_mac: INSIDE_MAC.into(),
        mtu: pod.mtu,
    })];
    operations.extend(set_sysctls(calico_sysctls(outside, ipv6)));
    let loose = sysctl::of_interface("ipv4", outside, "rp_filter");
    operations.push(on_host(Operation::Sysctl { name: loose, value: "2".into() }));
    let own = Address { link: outside.to_owned(), address: IpNet::from(std::net::IpAddr::from(OUTSIDE)) };
    operations.push(on_host(Operation::AddAddress(own)));
    operations.push(set_link(outside, up()));
    // The pod is reached over one interface and answers over the other for a while.
    operations.push(rp_filter("2"));
    if ipv6 {
        let name = sysctl::of_interface("ipv6", INSIDE, "accept_dad");
        operations.push(in_pod(Operation::Sysctl { name, value: "0".into() }));
    }
    operations.push(in_pod(Operation::SetLink { name: INSIDE.into(), change: up() }));
    for ip in pod.ips() {
        let address = Address { link: INSIDE.to_owned(), address: alone(ip) };
        operations.push(in_pod(Operation::AddAddress(address)));
        operations.push(in_pod(Operation::SetNeighbour(neighbour(INSIDE, gateway(ip), CALICO_MAC))));
    }
    operations
}

/// The host finds the pod over our pair.
fn divert(pod: &PodNetwork, outside: &str) -> Vec<At> {
    let both = |ip| {
        let known = Operation::SetNeighbour(neighbour(outside, ip, INSIDE_MAC));
        [known, Operation::DivertRoute(route(ip, outside, 0))].map(on_host)
    };
    pod.ips().flat_map(both).collect()
}

/// The pod sends everything over this interface.
fn onto(pod: &PodNetwork, dev: &str) -> Vec<At> {
    let way = |ip: std::net::IpAddr| {
        let mut routes: Vec<Route> = Vec::new();
        if ip.is_ipv4() {
            routes.push(to_gateway(dev));
        }
        routes.push(default_route(ip, dev));
        routes
    };
    pod.ips().flat_map(way).map(|route| in_pod(Operation::SetRoute(route))).collect()
}

fn rp_filter(value: &str) -> At {
    in_pod(Operation::Sysctl { name: "net.ipv4.conf.all.rp_filter".into(), value: value.to_owned() })
}

fn set_link(name: &str, change: LinkChange) -> At {
    on_host(Operation::SetLink { name: name.to_owned(), change })
}

fn up() -> LinkChange {
    LinkChange { up: true, ..LinkChange::default() }
}
