//! The way to other nodes: the tunnel's own end, the entries for each peer, and who answers.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Target;
use super::findings::Found;
use super::node::{Node, Side};
use super::routes::delete;
use crate::cni::Cni;
use crate::facts::{Link, Network, Peer, Route, RouteKind};
use crate::ownership::kernel::has_pins;
use crate::ownership::routes::text;
use crate::step::words::count;

/// Whom to ask: the next hops of the routes to other nodes of the CNI in use.
pub fn peers(node: &Node) -> Vec<Target> {
    let network = &node.facts.network;
    let mut targets: Vec<Target> = Vec::new();
    for (_, link) in overlays(node) {
        for route in over(network, link) {
            let Some(gateway) = route.via else { continue };
            targets
                .push(Target { gateway, node: mac(network, link, gateway).and_then(|mac| outer(network, link, mac)) });
        }
    }
    let direct = node.sides().into_iter().filter(|side| side.in_use).flat_map(|side| &side.inventory.image.routes);
    for gateway in direct.filter(|r| r.kind == RouteKind::Unicast).filter_map(|r| r.via) {
        targets.push(Target { gateway, node: Some(gateway) });
    }
    targets.sort_by_key(|t| (t.gateway, t.node));
    targets.dedup_by_key(|t| t.gateway);
    targets
}

/// What keeps the tunnel from carrying: its own end here, a peer without entries, a peer whose node answers and whose tunnel
/// does not.
pub(super) fn dead_vtep(node: &Node) -> Option<Found> {
    let network = &node.facts.network;
    // Its programs address the packets themselves.
    let by_program = node.traces().is_some_and(has_pins);
    let mut objects = Vec::new();
    let mut owners = BTreeSet::new();
    for (side, link) in overlays(node) {
        let mut wrong = own_end(network, link);
        for gateway in over(network, link).filter_map(|r| r.via).collect::<BTreeSet<_>>() {
            match mac(network, link, gateway) {
                None => wrong.push(format!("{gateway} on {}: no permanent neighbour entry", link.name)),
                Some(mac) if !by_program && outer(network, link, mac).is_none() => {
                    wrong.push(format!("{gateway} on {}: no forwarding entry for {mac}", link.name));
                }
                Some(_) if answered(node, gateway).is_some_and(|p| !p.answers && p.node_answers) => {
                    wrong.push(format!("{gateway} on {}: its node answers, the tunnel does not", link.name));
                }
                Some(_) => {}
            }
        }
        if !wrong.is_empty() {
            owners.insert(side.cni);
        }
        objects.extend(wrong);
    }
    let mut commands: Vec<String> = owners.into_iter().map(|cni| restart(node, cni)).collect();
    commands.dedup();
    Found::some(objects, |objects| {
        Found {
        what: format!("the tunnel to other nodes does not carry: {}", count(objects.len(), "fault")),
        evidence: "routes lead over the device; its state, its entries for the next hop and the answers to an echo request were \
                   looked at"
            .into(),
        objects,
        command: commands.join("; "),
    }
    })
}

/// Routes to nodes that do not answer at all.
pub(super) fn dead_peers(node: &Node) -> Option<Found> {
    let silent = |gateway: &IpAddr| answered(node, *gateway).is_some_and(|p| !p.answers && !p.node_answers);
    let network = &node.facts.network;
    let tunnelled = overlays(node).into_iter().flat_map(|(_, link)| over(network, link));
    let direct = node.sides().into_iter().filter(|side| side.in_use).flat_map(|side| &side.inventory.image.routes);
    let dead: Vec<&Route> = tunnelled.chain(direct).filter(|r| r.via.as_ref().is_some_and(silent)).collect();
    let commands: Vec<String> = dead.iter().map(|r| delete(r)).collect();
    Found::some(dead.iter().map(|r| text(r)).collect(), |objects| Found {
        what: format!("{} to nodes that do not answer", count(objects.len(), "route")),
        evidence:
            "neither the next hop nor the node behind it answers an echo request, and the node's kubelet port is closed"
                .into(),
        objects,
        command: format!("where the nodes are gone for good: {}", commands.join("; ")),
    })
}

/// VXLAN devices of a CNI that serves this node.
fn overlays<'n>(node: &'n Node) -> Vec<(&'n Side, &'n Link)> {
    let in_use = node.sides().into_iter().filter(|side| side.in_use);
    let of = |side: &'n Side| side.inventory.image.links.iter().filter(|l| l.vxlan.is_some()).map(move |l| (side, l));
    in_use.flat_map(of).collect()
}

fn over<'n>(network: &'n Network, link: &'n Link) -> impl Iterator<Item = &'n Route> {
    network.routes.iter().filter(|r| r.dev.as_deref() == Some(link.name.as_str()) && r.via.is_some())
}

/// What is wrong with this end.
fn own_end(network: &Network, link: &Link) -> Vec<String> {
    let mut wrong = Vec::new();
    if !link.up {
        wrong.push(format!("{} is down", link.name));
    }
    let local = link.vxlan.as_ref().and_then(|v| v.local);
    if let Some(local) = local.filter(|ip| !network.addresses.iter().any(|a| a.address.addr() == *ip)) {
        wrong.push(format!("{} sends from {local}, which is no address of this node", link.name));
    }
    wrong
}

fn mac<'n>(network: &'n Network, link: &Link, gateway: IpAddr) -> Option<&'n str> {
    network.neighbours.iter().find(|n| n.link == link.name && n.address == gateway).map(|n| n.mac.as_str())
}

fn outer(network: &Network, link: &Link, mac: &str) -> Option<IpAddr> {
    network.fdb.iter().find(|f| f.link == link.name && f.mac == mac).map(|f| f.dst)
}

fn answered<'n>(node: &'n Node, gateway: IpAddr) -> Option<&'n Peer> {
    node.traces()?.peers.iter().find(|p| p.gateway == gateway)
}

/// Starts this node's agent anew, in whichever namespace it is: it then writes all its entries, and its installer its plugins.
pub(super) fn restart(node: &Node, cni: Cni) -> String {
    let name = node.facts.cluster.as_ref().map_or(node.facts.machine.hostname.as_str(), |c| c.node.as_str());
    let label = match cni {
        Cni::Flannel | Cni::Calico if node.canal => "k8s-app=canal",
        Cni::Flannel if node.facts.is_canal() => "k8s-app=canal",
        Cni::Flannel => "app=flannel",
        Cni::Calico => "k8s-app=calico-node",
    };
    format!("kubectl delete pod -A -l {label} --field-selector spec.nodeName={name}")
}
