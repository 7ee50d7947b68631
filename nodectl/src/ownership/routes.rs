//! Routes that outlive a device, and policy rules: by protocol, destination and shape.

use ipnet::IpNet;

use super::known::Known;
use super::links::TUNL0;
use super::{Group, Inventory};
use crate::cni::Cni;
use crate::facts::{Facts, Process, Route, RouteKind, Rule};

/// felix's route protocol (its DefaultRouteProto).
const PROTO_FELIX: u8 = 80;
/// BIRD's; its kernel protocol `persist`s routes on exit.
const PROTO_BIRD: u8 = 12;
/// RTPROT_BOOT, which flanneld's library and `ip route add` write.
pub const PROTO_BOOT: u8 = 3;
/// RT_TABLE_MAIN.
const MAIN: u32 = 254;
/// felix's priority of the rule for WireGuard (its default).
const WIREGUARD_PRIORITY: u32 = 99;
/// felix's WireGuard devices.
const WIREGUARD: [&str; 2] = ["wireguard.cali", "wg-v6.cali"];

/// Routes and rules that go. Those over a device that goes are named with it.
pub fn claim(facts: &Facts, cni: Cni, known: &Known, inventory: &mut Inventory) {
    let tables: Vec<u32> = if cni == Cni::Calico { wireguard_rules(facts, known, inventory) } else { Vec::new() };
    let gone: std::collections::HashSet<String> = inventory.image.links.iter().map(|l| l.name.clone()).collect();
    for route in &facts.network.routes {
        if route.dev.as_ref().is_some_and(|dev| gone.contains(dev)) {
            continue;
        }
        let why = match cni {
            Cni::Flannel => flannel(facts, route, known),
            Cni::Calico => calico(facts, route, known, &tables),
        };
        match why {
            Some(why) => {
                inventory.claim(Group::Routes, text(route), why);
                inventory.image.routes.push(route.clone());
            }
            None => undecided(facts, route, cni, known, inventory),
        }
    }
}

/// flanneld's routes without a device of its own: host-gw, DirectRouting, and the blackhole that it makes on request.
fn flannel(facts: &Facts, route: &Route, known: &Known) -> Option<&'static str> {
    if route.table != MAIN || route.proto != PROTO_BOOT || route.metric != usual_metric(&route.dst) {
        return None;
    }
    let own = known.subnets.contains(&route.dst);
    match route.kind {
        RouteKind::Blackhole if own => Some("flanneld's blackhole of this node's part of the pod network"),
        // As long as a node's part, at a gateway that is a neighbour and not this host's way out.
        RouteKind::Unicast if !own && !known.tunnels && known.contains(&route.dst) => {
            if !external(facts).contains(&route.dev.as_deref()) {
                return None;
            }
            let as_long =
                known.subnets.iter().any(|s| same_family(s, &route.dst) && s.prefix_len() == route.dst.prefix_len());
            let plain = route.src.is_none() && route.mtu.is_none() && route.scope == 0;
            let gateway = route.via?;
            let way_out = facts.network.routes.iter().any(|r| r.dst.prefix_len() == 0 && r.via == Some(gateway));
            let neighbour = facts.network.addresses.iter().any(|a| {
                Some(&a.link) == route.dev.as_ref() && a.address.contains(&gateway) && a.address.addr() != gateway
            });
            (as_long && plain && !way_out && neighbour)
                .then_some("flanneld's route to another node's part of the pod network (host-gw or DirectRouting)")
        }
        _ => None,
    }
}

/// Devices that lead to other nodes: what flannel's VXLAN devices lie on, else where the default routes go.
fn external(facts: &Facts) -> Vec<Option<&str>> {
    let overlays = facts.network.links.iter().filter(|l| l.name.starts_with("flannel"));
    let parents: Vec<Option<&str>> =
        overlays.filter_map(|l| l.vxlan.as_ref()).map(|v| v.parent.as_deref()).filter(Option::is_some).collect();
    if !parents.is_empty() {
        return parents;
    }
    facts
        .network
        .routes
        .iter()
        .filter(|r| r.dst.prefix_len() == 0 && r.table == MAIN)
        .map(|r| r.dev.as_deref())
        .collect()
}

/// felix's and BIRD's routes in the main table, inside the pod network; and felix's own table for WireGuard.
fn calico(facts: &Facts, route: &Route, known: &Known, tables: &[u32]) -> Option<&'static str> {
    if tables.contains(&route.table) && (route.kind == RouteKind::Throw || is_over(route, &WIREGUARD)) {
        return Some("in the table that felix's WireGuard rule names");
    }
    // In a table of its own a VPN may route the pod network, with any protocol.
    if route.table != MAIN {
        return None;
    }
    if route.proto == PROTO_BIRD && has_other_bird(facts) {
        return None;
    }
    let inside = known.contains(&route.dst);
    match route.proto {
        PROTO_FELIX if inside && route.kind == RouteKind::Blackhole => {
            Some("felix's blackhole of a block (protocol 80, in the pod network)")
        }
        PROTO_FELIX if inside && (route.via.is_some() || is_over(route, &[TUNL0])) => {
            Some("felix's route (protocol 80, in the pod network)")
        }
        PROTO_BIRD if inside && route.kind == RouteKind::Blackhole => {
            Some("BIRD's blackhole of a block (protocol 12, in the pod network)")
        }
        PROTO_BIRD if inside && route.via.is_some() => {
            Some("BIRD's route, which it leaves behind (protocol 12, in the pod network)")
        }
        PROTO_BIRD | PROTO_FELIX if is_over(route, &[TUNL0]) => {
            Some("over tunl0, which Calico alone routes with this protocol")
        }
        _ if inside && route.via.is_some() && is_blocks(facts, route, known) => {
            Some("felix's route to a block, left on the device that was renamed back")
        }
        _ => None,
    }
}

/// A BIRD that is not Calico's may have learned the pod network from the same neighbours.
fn has_other_bird(facts: &Facts) -> bool {
    let calicos = |p: &Process| p.args.iter().any(|arg| arg.contains("/calico/"));
    facts.processes.iter().any(|p| ["bird", "bird6"].contains(&p.name.as_str()) && !calicos(p))
}

/// A route over flannel's device that is longer than a node's part: blocks are Calico's.
fn is_blocks(facts: &Facts, route: &Route, known: &Known) -> bool {
    let over_overlay = route
        .dev
        .as_ref()
        .is_some_and(|dev| dev.starts_with("flannel") && facts.network.link(dev).is_some_and(|l| l.vxlan.is_some()));
    let longest = known.subnets.iter().filter(|s| same_family(s, &route.dst)).map(|s| s.prefix_len()).max();
    over_overlay && longest.is_some_and(|longest| route.dst.prefix_len() > longest)
}

/// What looks like the CNI's, but lacks a sign that an administrator's could not have.
fn undecided(facts: &Facts, route: &Route, cni: Cni, known: &Known, inventory: &mut Inventory) {
    let as_long = known.subnets.iter().any(|s| same_family(s, &route.dst) && s.prefix_len() == route.dst.prefix_len());
    let is_boot = route.table == MAIN && route.proto == PROTO_BOOT && route.kind == RouteKind::Unicast;
    if cni == Cni::Flannel && is_boot && as_long && known.contains(&route.dst) && route.via.is_some() {
        let why = "it leads to a part of the pod network as flannel's would, but not as flannel's do here (another device, \
                   a metric, the host's own way out, or beside a tunnel to nodes as near)";
        inventory.undecided(text(route), why);
    }
    let is_birds = route.table == MAIN && route.proto == PROTO_BIRD && known.contains(&route.dst);
    if cni == Cni::Calico && is_birds && has_other_bird(facts) {
        inventory.undecided(
            text(route),
            "a BIRD runs here that is not Calico's, and the route may be its own; while it does not run, the route counts as Calico's",
        );
    }
    let candidate = route.table == MAIN
        && route.proto == PROTO_FELIX
        && cni == Cni::Calico
        && !known.contains(&route.dst)
        && (route.kind == RouteKind::Blackhole || route.via.is_some());
    if candidate {
        inventory.undecided(
            text(route),
            "protocol 80 is felix's, but a VPN may use it too, and the destination lies in no pod network that is known; \
             `--network CIDR` names one",
        );
    }
}

/// `not from all fwmark M/M lookup T`, M a single bit: felix's rule that sends what is not encrypted yet to its table. Its
/// table must hold nothing of others.
fn wireguard_rules(facts: &Facts, known: &Known, inventory: &mut Inventory) -> Vec<u32> {
    let mut tables = known.tables.clone();
    for rule in facts.network.rules.iter().filter(|rule| is_wireguard_shape(rule)) {
        let mut routes = facts.network.routes.iter().filter(|r| r.table == rule.table);
        if routes.all(|r| r.kind == RouteKind::Throw || is_over(r, &WIREGUARD)) {
            let (mark, mask) = rule.fwmark.unwrap_or_default();
            let what =
                format!("IPv{}: {}: not fwmark {mark:#x}/{mask:#x} lookup {}", rule.family, rule.priority, rule.table);
            inventory.claim(
                Group::PolicyRules,
                what,
                "felix's rule for WireGuard: its priority, a single inverted mark, a table of its own",
            );
            inventory.image.policy_rules.push(rule.clone());
            tables.push(rule.table);
        }
    }
    // A table that another rule uses is not felix's.
    tables.retain(|table| {
        *table != MAIN
            && !facts.network.rules.iter().any(|r| r.table == *table && !inventory.image.policy_rules.contains(r))
    });
    tables
}

/// The shape alone, whatever is in its table.
pub fn is_wireguard_shape(rule: &Rule) -> bool {
    let single = rule.fwmark.is_some_and(|(mark, mask)| mark == mask && mark.is_power_of_two());
    rule.priority == WIREGUARD_PRIORITY && rule.invert && !rule.selective && single
}

/// felix's or BIRD's.
pub fn is_calicos_protocol(route: &Route) -> bool {
    [PROTO_FELIX, PROTO_BIRD].contains(&route.proto)
}

fn is_over(route: &Route, devices: &[&str]) -> bool {
    route.dev.as_deref().is_some_and(|dev| devices.contains(&dev))
}

fn same_family(a: &IpNet, b: &IpNet) -> bool {
    a.max_prefix_len() == b.max_prefix_len()
}

/// What a route has that was added without a metric; IPv6 has 1024.
fn usual_metric(dst: &IpNet) -> u32 {
    if matches!(dst, IpNet::V6(_)) { 1024 } else { 0 }
}

/// A route in iproute2's words.
pub fn text(route: &Route) -> String {
    let mut text = match route.kind {
        RouteKind::Unicast | RouteKind::Other => String::new(),
        RouteKind::Blackhole => "blackhole ".into(),
        RouteKind::Unreachable => "unreachable ".into(),
        RouteKind::Throw => "throw ".into(),
        RouteKind::Prohibit => "prohibit ".into(),
    };
    text.push_str(&route.dst.to_string());
    if let Some(via) = route.via {
        text.push_str(&format!(" via {via}"));
    }
    if let Some(dev) = &route.dev {
        text.push_str(&format!(" dev {dev}"));
    }
    if route.table != MAIN {
        text.push_str(&format!(" table {}", route.table));
    }
    let proto = match route.proto {
        2 => "kernel".into(),
        PROTO_BOOT => "boot".into(),
        4 => "static".into(),
        PROTO_BIRD => "bird".into(),
        other => other.to_string(),
    };
    text.push_str(&format!(" proto {proto}"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Address, Network};

    #[test]
    fn an_administrators_direct_route_outlives_a_switch() {
        let route = |dst: &str, via: &str| Route {
            dst: dst.parse().unwrap(),
            dev: Some("eth0".into()),
            via: Some(via.parse().unwrap()),
            src: None,
            table: MAIN,
            proto: PROTO_BOOT,
            scope: 0,
            kind: RouteKind::Unicast,
            metric: 0,
            onlink: false,
            mtu: None,
        };
        let routes = vec![route("0.0.0.0/0", "192.168.77.254"), route("10.244.9.0/24", "192.168.77.9")];
        let addresses = vec![Address { link: "eth0".into(), address: "192.168.77.1/24".parse().unwrap() }];
        let facts = Facts { network: Network { routes, addresses, ..Network::default() }, ..Facts::default() };
        let mut known = Known {
            networks: vec!["10.244.0.0/16".parse().unwrap()],
            subnets: vec!["10.244.1.0/24".parse().unwrap()],
            tunnels: true,
            ..Known::default()
        };
        let claims = |known: &Known| {
            let mut inventory = Inventory::default();
            claim(&facts, Cni::Flannel, known, &mut inventory);
            inventory.claims.len()
        };
        assert_eq!(claims(&known), 0, "flannel tunnels to its neighbours here");
        known.tunnels = false;
        assert_eq!(claims(&known), 1, "host-gw");
    }
}
