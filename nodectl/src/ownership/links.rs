//! Links: by name and kind.

use ipnet::IpNet;

use super::known::Known;
use super::{Group, Inventory};
use crate::cni::Cni;
use crate::facts::{Address, Facts, Link, Route};

/// How a device's name is recognised.
enum Name {
    /// This one.
    Is(&'static str),
    /// The prefix and the device's own VXLAN identifier.
    Vni(&'static str),
    /// A prefix of Calico's host interfaces and eleven hexadecimal digits.
    Pod,
}

/// One row of the table.
struct Row {
    cni: Cni,
    name: Name,
    kinds: &'static [&'static str],
    why: &'static str,
}

const fn row(cni: Cni, name: Name, kinds: &'static [&'static str], why: &'static str) -> Row {
    Row { cni, name, kinds, why }
}

/// Devices by owner. A device of another kind under such a name is somebody else's. Of Calico's pods' devices each name is
/// checked against the prefixes that are known.
const TABLE: [Row; 12] = [
    row(Cni::Calico, Name::Pod, &["veth", "netkit"], "a pod's interface, named by Calico's plugin"),
    row(Cni::Calico, Name::Is("vxlan.calico"), &["vxlan"], "felix's VXLAN device"),
    row(Cni::Calico, Name::Is("vxlan-v6.calico"), &["vxlan"], "felix's VXLAN device for IPv6"),
    row(Cni::Calico, Name::Is("wireguard.cali"), &["wireguard"], "felix's WireGuard device"),
    row(Cni::Calico, Name::Is("wg-v6.cali"), &["wireguard"], "felix's WireGuard device for IPv6"),
    row(Cni::Calico, Name::Is("bpfin.cali"), &["veth"], "felix's device for eBPF"),
    row(Cni::Calico, Name::Is("bpfout.cali"), &["veth"], "felix's device for eBPF"),
    row(Cni::Flannel, Name::Vni("flannel."), &["vxlan"], "flanneld's VXLAN device, named after its identifier"),
    row(Cni::Flannel, Name::Vni("flannel-v6."), &["vxlan"], "flanneld's VXLAN device for IPv6"),
    row(Cni::Flannel, Name::Is("flannel.ipip"), &["ipip"], "flanneld's IPIP device"),
    row(Cni::Flannel, Name::Is("flannel-wg"), &["wireguard"], "flanneld's WireGuard device"),
    row(Cni::Flannel, Name::Is("flannel-wg-v6"), &["wireguard"], "flanneld's WireGuard device for IPv6"),
];

/// flannel's bridge. Others' sample configurations call theirs so as well.
const BRIDGE: &str = "cni0";

/// What the kernel makes for the first IPIP tunnel of a namespace; it cannot be deleted.
pub const TUNL0: &str = "tunl0";

/// Why the device is the CNI's, where it is.
pub fn owner(facts: &Facts, link: &Link, cni: Cni, known: &Known) -> Option<&'static str> {
    let named = |row: &Row| match row.name {
        Name::Is(name) => link.name == name,
        Name::Vni(prefix) => link.vxlan.as_ref().is_some_and(|v| {
            link.name == format!("{prefix}{}", v.vni) && (known.vnis.is_empty() || known.vnis.contains(&v.vni))
        }),
        Name::Pod => known.prefixes.iter().any(|prefix| is_pod_name(&link.name, prefix)),
    };
    let found = TABLE.iter().find(|row| row.cni == cni && row.kinds.contains(&link.kind.as_str()) && named(row));
    found.map(|row| row.why).or_else(|| match cni {
        Cni::Flannel if link.name == "flannel0" && link.kind == "tun" => Some("flanneld's tunnel (udp)"),
        Cni::Flannel if link.name == BRIDGE && is_flannels_bridge(facts, link, known) => {
            Some("flannel's bridge: its addresses are of this node's pod network")
        }
        Cni::Flannel if is_bridge_port(link) && bridge_is_owned(facts, known) => {
            Some("a pod's interface: a port of cni0, named by the bridge plugin")
        }
        Cni::Flannel | Cni::Calico => None,
    })
}

/// Devices that go, and what goes with them.
pub fn claim(facts: &Facts, cni: Cni, known: &Known, with_pods: bool, inventory: &mut Inventory) {
    for link in &facts.network.links {
        let is_pods = is_bridge_port(link) || known.prefixes.iter().any(|p| is_pod_name(&link.name, p));
        let Some(why) = owner(facts, link, cni, known) else {
            doubtful(link, cni, inventory);
            continue;
        };
        if is_pods && !with_pods {
            continue;
        }
        // Without its pods' ports: a bridge with any stays with them.
        let has_ports = facts.network.links.iter().any(|l| l.master.as_deref() == Some(link.name.as_str()));
        if link.name == BRIDGE && has_ports && !with_pods {
            continue;
        }
        inventory.claim(Group::Links, format!("{} ({})", link.name, link.kind), why);
        inventory.image.links.push(link.clone());
    }
    let bundles = bundles(facts, known);
    for link in &facts.network.links {
        if link.kind == "ifb" && with_pods && bundles.contains(&link.name) {
            inventory.claim(
                Group::Links,
                format!("{} (ifb)", link.name),
                "made by the bandwidth plugin for a pod of this network",
            );
            inventory.image.links.push(link.clone());
        }
    }
    company(facts, inventory);
    tunnel(facts, cni, known, inventory);
}

/// Takes flannel's bridge out of what goes: connections of this host to its pods have the bridge's address.
pub fn keep_bridge(inventory: &mut Inventory) {
    inventory.image.links.retain(|link| link.name != BRIDGE);
    inventory.image.addresses.retain(|address| address.link != BRIDGE);
    let of_bridge = |claim: &super::Claim| {
        claim.with.as_deref() == Some(BRIDGE) || (claim.group == Group::Links && claim.object.starts_with("cni0 "))
    };
    inventory.claims.retain(|claim| !of_bridge(claim));
    inventory.stays(
        BRIDGE,
        "this host's connections to pods that were re-plumbed have its address; it goes at the next boot",
    );
}

/// A device under a name of the CNI's that is not the CNI's, as far as can be told.
fn doubtful(link: &Link, cni: Cni, inventory: &mut Inventory) {
    let what = || format!("{} ({})", link.name, link.kind);
    let row = TABLE.iter().find(|row| row.cni == cni && matches!(row.name, Name::Is(name) if link.name == name));
    if let Some(row) = row {
        inventory.undecided(what(), &format!("it bears that name, but is no {}", row.kinds.join(" or ")));
    } else if cni == Cni::Flannel && link.name == BRIDGE {
        inventory.undecided(
            what(),
            "other CNIs call their bridge so as well: its addresses are not of flannel's part of the pod network here, or it has \
             ports that are no pods'; `--subnet CIDR` names this node's part",
        );
    }
}

/// Addresses, neighbours and forwarding entries go with their device.
fn company(facts: &Facts, inventory: &mut Inventory) {
    let network = &facts.network;
    let gone: std::collections::HashSet<String> = inventory.image.links.iter().map(|l| l.name.clone()).collect();
    for address in network.addresses.iter().filter(|a| gone.contains(&a.link)) {
        if !is_link_local(address) {
            inventory.claim_with(Group::Addresses, format!("{} on {}", address.address, address.link), &address.link);
        }
        inventory.image.addresses.push(address.clone());
    }
    for n in network.neighbours.iter().filter(|n| gone.contains(&n.link)) {
        inventory.claim_with(Group::Neighbours, format!("{} is {} on {}", n.address, n.mac, n.link), &n.link);
    }
    for f in network.fdb.iter().filter(|f| gone.contains(&f.link)) {
        inventory.claim_with(Group::Forwarding, format!("{} behind {} on {}", f.mac, f.dst, f.link), &f.link);
    }
    let is_kernels = |r: &&Route| matches!(r.dst, IpNet::V6(v6) if v6.addr().is_unicast_link_local());
    let over = network.routes.iter().filter(|r| r.dev.as_ref().is_some_and(|dev| gone.contains(dev)));
    for r in over.filter(|r| !is_kernels(r)) {
        inventory.claim_with(Group::Routes, super::routes::text(r), r.dev.as_deref().unwrap_or_default());
    }
}

/// Whether tunl0 is Calico's work: it has a single address of the pod network, or a route of felix's or BIRD's. Load balancers
/// (LVS with tunnels) use it too, with an address of theirs or with none.
pub fn is_calicos_tunnel(facts: &Facts, known: &Known) -> bool {
    let network = &facts.network;
    network.routes.iter().any(|r| r.dev.as_deref() == Some(TUNL0) && super::routes::is_calicos_protocol(r))
        || network.addresses.iter().any(|a| is_calicos_address(a, known))
}

fn is_calicos_address(address: &Address, known: &Known) -> bool {
    address.link == TUNL0
        && address.address.prefix_len() == address.address.max_prefix_len()
        && (known.contains(&address.address) || known.networks.is_empty() && known.ipip)
}

/// tunl0 cannot be deleted: Calico's address comes off, and it is set down.
fn tunnel(facts: &Facts, cni: Cni, known: &Known, inventory: &mut Inventory) {
    let Some(tunnel) = facts.network.link(TUNL0).filter(|l| l.kind == "ipip" && cni == Cni::Calico) else { return };
    let all = facts.network.addresses.iter().filter(|a| a.link == TUNL0 && !is_link_local(a));
    let (ours, rest): (Vec<&Address>, Vec<&Address>) = all.partition(|a| is_calicos_address(a, known));
    for address in &ours {
        inventory.claim(
            Group::Addresses,
            format!("{} on {TUNL0}", address.address),
            "the node's address of Calico's pool",
        );
        inventory.image.stripped.push((*address).clone());
    }
    for address in &rest {
        inventory.undecided(
            format!("{} on {TUNL0}", address.address),
            "Calico has a single address of its pool there, and this lies in no pod network that is known; `--network CIDR` names one",
        );
    }
    if rest.is_empty() && tunnel.up && known.ipip {
        inventory.claim(
            Group::Links,
            format!("{TUNL0} (set down)"),
            "cannot be deleted; without an address it serves nobody",
        );
        inventory.image.set_down.push(TUNL0.into());
    }
}

/// Names of the ifbs that the bandwidth plugin made for this network's containers.
fn bundles(facts: &Facts, known: &Known) -> std::collections::HashSet<String> {
    let notes = facts.traces.iter().flat_map(|t| &t.notes).filter(|n| known.is_named(&n.network));
    let gone = notes.filter(|n| !known.others.contains(&n.container));
    gone.map(|n| super::plugins::ifb_name(&n.network, &n.container)).collect()
}

/// The prefix and eleven lower-case hexadecimal digits.
pub fn is_pod_name(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(|rest| rest.len() == 11 && rest.bytes().all(is_hex))
}

/// A port of cni0 with a name as the bridge plugin makes it: `veth` and eight hexadecimal digits.
pub fn is_bridge_port(link: &Link) -> bool {
    link.master.as_deref() == Some(BRIDGE)
        && link.kind == "veth"
        && link.name.strip_prefix("veth").is_some_and(|rest| rest.len() == 8 && rest.bytes().all(is_hex))
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

fn bridge_is_owned(facts: &Facts, known: &Known) -> bool {
    facts.network.link(BRIDGE).is_some_and(|bridge| is_flannels_bridge(facts, bridge, known))
}

/// A bridge whose addresses are flannel's, and whose ports are pods'. One without any address, as a crash between its making
/// and its address leaves it, is flannel's where flannel was here.
fn is_flannels_bridge(facts: &Facts, link: &Link, known: &Known) -> bool {
    let mut addresses = facts.network.addresses.iter().filter(|a| a.link == BRIDGE && !is_link_local(a));
    let mut ports = facts.network.links.iter().filter(|l| l.master.as_deref() == Some(BRIDGE));
    link.kind == "bridge"
        && !known.subnets.is_empty()
        && addresses.all(|a| known.is_local(a.address.addr()))
        && ports.all(is_bridge_port)
}

/// The kernel's own.
fn is_link_local(address: &Address) -> bool {
    matches!(address.address, IpNet::V6(v6) if v6.addr().is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Traces;
    use crate::ownership;

    /// tunl0 as a virtual server has it, whatever else is there.
    fn load_balancer(vip: Option<&str>) -> Facts {
        let traces = Traces { modules: vec!["ipip".into()], ..Traces::default() };
        let mut facts = Facts { traces: Some(Box::new(traces)), ..Facts::default() };
        let tunnel = Link { name: TUNL0.into(), kind: "ipip".into(), up: true, ..Link::default() };
        facts.network.links.push(tunnel);
        let address = |vip: &str| Address { link: TUNL0.into(), address: vip.parse().unwrap() };
        facts.network.addresses.extend(vip.map(address));
        facts
    }

    fn objects(facts: &Facts) -> Vec<String> {
        let known = Known::of(facts, Cni::Calico);
        ownership::inventory(facts, Cni::Calico, &known).claims.into_iter().map(|c| c.object).collect()
    }

    #[test]
    fn a_load_balancers_tunl0_is_no_calicos() {
        for vip in [None, Some("198.51.100.7/32")] {
            let mut facts = load_balancer(vip);
            assert!(objects(&facts).is_empty(), "{vip:?}");
            // Calico with VXLAN was here as well.
            facts.traces.as_mut().unwrap().pools = vec!["10.244.0.0/16".parse().unwrap()];
            facts.firewall.sets = vec!["cali40masq-ipam-pools".into()];
            assert_eq!(objects(&facts), ["cali40masq-ipam-pools"], "{vip:?}");
        }
    }

    #[test]
    fn calicos_tunl0_is_told_by_its_address_or_by_a_route_and_a_kill_loses_neither() {
        let all = ["10.244.1.1/32 on tunl0", "tunl0 (set down)", "ipip"];
        let mut facts = load_balancer(Some("10.244.1.1/32"));
        facts.traces.as_mut().unwrap().pools = vec!["10.244.0.0/16".parse().unwrap()];
        assert_eq!(objects(&facts), all);
        let before = Known::of(&facts, Cni::Calico);
        facts.network.addresses.clear();
        let mut known = Known::of(&facts, Cni::Calico);
        known.add(&before);
        let left = ownership::inventory(&facts, Cni::Calico, &known).claims;
        assert_eq!(left.into_iter().map(|c| c.object).collect::<Vec<_>>(), all[1..]);
        // No network is known, but BIRD routes over it.
        let mut facts = load_balancer(Some("10.244.1.1/32"));
        let route = Route {
            dst: "10.244.2.0/26".parse().unwrap(),
            dev: Some(TUNL0.into()),
            proto: 12,
            table: 254,
            via: None,
            src: None,
            scope: 0,
            kind: crate::facts::RouteKind::Unicast,
            metric: 0,
            onlink: true,
            mtu: None,
        };
        facts.network.routes.push(route);
        assert_eq!(objects(&facts)[1..], all);
    }
}
