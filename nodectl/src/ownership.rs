//! Which objects on a node belong to a CNI, and by what evidence. Pure.
//!
//! Nothing is flushed: an object is named here or it stays. The evidence for each kind: links by name and kind, routes by
//! device or by felix's protocol, rules by chain prefix and comment hash, sets by prefix, files by path.

use ipnet::IpNet;

use crate::cni::Cni;
use crate::facts::{Address, Facts, Family, Link, Route, RouteKind};
use crate::rules::{self, OwnedRules};
use crate::step::{CleanScope, RemovedImage};

/// felix's route protocol for blackholes and same-subnet routes (its DefaultRouteProto).
const PROTO_FELIX: u8 = 80;
/// RT_TABLE_MAIN.
const MAIN_TABLE: u32 = 254;
/// BIRD's route protocol; its kernel protocol `persist`s routes on exit.
const PROTO_BIRD: u8 = 12;

/// What this CNI owns on the node, in the form in which it can be removed and put back.
///
/// Device names that the other CNI has taken over (a renamed overlay) are its own by then and not found here.
pub fn owned(facts: &Facts, cni: Cni, scope: &CleanScope) -> RemovedImage {
    let links: Vec<Link> = facts.network.links.iter().filter(|l| is_link_of(facts, l, cni, scope)).cloned().collect();
    let gone = |name: &str| links.iter().any(|l| l.name == name);
    RemovedImage {
        addresses: facts.network.addresses.iter().filter(|a| gone(&a.link)).cloned().collect(),
        routes: facts.network.routes.iter().filter(|r| is_route_of(r, cni, scope)).cloned().collect(),
        rules: owned_rules(facts, cni),
        sets: facts.firewall.sets.iter().filter(|s| is_set_of(s, cni)).cloned().collect(),
        nft_tables: facts.firewall.nft_tables.iter().filter(|t| is_nft_table_of(t, cni)).cloned().collect(),
        files: files(facts, cni, scope),
        links,
    }
}

/// flannel: its overlay and cni0, once no port hangs on it. Calico: its overlay. Pods' veths die with their pods.
fn is_link_of(facts: &Facts, link: &Link, cni: Cni, scope: &CleanScope) -> bool {
    match cni {
        Cni::Flannel => {
            let idle_bridge = link.name == "cni0"
                && link.kind == "bridge"
                // Other CNIs' sample configurations call their bridge cni0 as well.
                && facts.network.addresses.iter().filter(|a| a.link == "cni0").all(|a| ours(a, scope))
                && !facts.network.links.iter().any(|l| l.master.as_deref() == Some("cni0"));
            idle_bridge || (link.name == format!("flannel.{}", scope.vni) && link.vxlan.is_some())
        }
        Cni::Calico => link.name == "vxlan.calico" && link.vxlan.is_some(),
    }
}

/// An address that flannel's bridge has: in this node's pod network, or the kernel's own link-local one.
fn ours(address: &Address, scope: &CleanScope) -> bool {
    match address.address {
        IpNet::V4(_) => scope.pod_cidr.contains(&address.address.addr()),
        IpNet::V6(v6) => v6.addr().is_unicast_link_local(),
    }
}

/// Routes that outlive the device they were made for. Those over a CNI's own device go with the device.
fn is_route_of(route: &Route, cni: Cni, scope: &CleanScope) -> bool {
    match cni {
        Cni::Flannel => false,
        Cni::Calico => {
            // felix keeps to the main table; in a table of its own, a VPN may route the pod network with any protocol.
            let inside = route.table == MAIN_TABLE && contains(scope.cluster_cidr, route.dst);
            let blackhole = route.kind == RouteKind::Blackhole && [PROTO_FELIX, PROTO_BIRD].contains(&route.proto);
            // A VPN may use protocol 80 as well: the destination must lie in the pod network.
            let over_overlay = route.dev.as_deref() == Some(format!("flannel.{}", scope.vni).as_str())
                && route.dst.prefix_len() > scope.pod_cidr.prefix_len()
                && route.via.is_some();
            inside && (blackhole || over_overlay || (route.proto == PROTO_FELIX && route.via.is_some()))
        }
    }
}

fn contains(outer: IpNet, inner: IpNet) -> bool {
    outer.contains(&inner)
}

/// Chains and rules, in every variant and family that has any.
fn owned_rules(facts: &Facts, cni: Cni) -> Vec<OwnedRules> {
    let find = |text: &str| match cni {
        Cni::Flannel => rules::owned(text, rules::is_flannel_chain, rules::is_flannel_rule),
        Cni::Calico => rules::owned(text, rules::is_felix_chain, rules::is_felix_rule),
    };
    facts
        .firewall
        .saved
        .iter()
        .map(|s| OwnedRules { backend: s.backend, family: s.family, owned: find(&s.text) })
        .filter(|r| !r.owned.tables.is_empty())
        .collect()
}

/// felix's sets: `cali4…`, `cali6…`, historic `felix-…`. flannel has none.
fn is_set_of(name: &str, cni: Cni) -> bool {
    cni == Cni::Calico && ["cali4", "cali6", "felix-"].iter().any(|p| name.starts_with(p))
}

/// Native tables of both, as `family name`.
fn is_nft_table_of(table: &str, cni: Cni) -> bool {
    match cni {
        Cni::Flannel => ["ip flannel-ipv4", "ip6 flannel-ipv6"].contains(&table),
        Cni::Calico => ["ip calico", "ip6 calico", "arp calico-arp"].contains(&table),
    }
}

/// Paths that a CNI leaves behind. Plugin binaries that others use too stay (`host-local`, `portmap`, and `flannel`,
/// which Calico's installer brings as well).
pub fn paths(cni: Cni, conf_dir: &str, bin_dir: &str, conflist: &str, network: &str) -> Vec<String> {
    match cni {
        Cni::Flannel => vec![
            format!("{conf_dir}/{conflist}"),
            "/run/flannel/subnet.env".into(),
            "/var/lib/cni/flannel".into(),
            format!("/var/lib/cni/networks/{network}"),
        ],
        Cni::Calico => vec![
            format!("{conf_dir}/{conflist}"),
            format!("{conf_dir}/calico-kubeconfig"),
            format!("{conf_dir}/calico-tls"),
            "/var/lib/calico".into(),
            "/run/calico".into(),
            format!("{bin_dir}/calico"),
            format!("{bin_dir}/calico-ipam"),
        ],
    }
}

/// Those of them that exist.
fn files(facts: &Facts, cni: Cni, scope: &CleanScope) -> Vec<String> {
    paths(cni, &scope.conf_dir, &scope.bin_dir, &scope.conflist, &scope.network)
        .into_iter()
        .filter(|path| facts.files.present.contains(path))
        .collect()
}

/// What is left of a CNI, a line each; empty where the node is clean of it.
pub fn leftovers(facts: &Facts, cni: Cni, scope: &CleanScope) -> Vec<String> {
    let image = owned(facts, cni, scope);
    let mut lines: Vec<String> = image.links.iter().map(|l| format!("link {}", l.name)).collect();
    lines.extend(image.routes.iter().map(|r| format!("route {} ({:?}, proto {})", r.dst, r.kind, r.proto)));
    for rules in &image.rules {
        let family = if rules.family == Family::Ipv4 { "iptables" } else { "ip6tables" };
        for table in &rules.owned.tables {
            lines.extend(table.chains.iter().map(|c| format!("{family} chain {} {c}", table.table)));
            lines.extend(table.hooks.iter().map(|(c, _, s)| format!("{family} rule {} {c} {s}", table.table)));
        }
    }
    lines.extend(image.sets.iter().map(|s| format!("ipset {s}")));
    lines.extend(image.nft_tables.iter().map(|t| format!("nft table {t}")));
    lines.extend(image.files.iter().map(|f| format!("file {f}")));
    lines
}
