//! Routes and addresses that lead traffic astray on the node itself.

use ipnet::IpNet;

use super::findings::Found;
use super::node::Node;
use crate::cni::CALICO_MIGRATION_LABEL;
use crate::facts::{Address, Route, RouteKind};
use crate::ownership::links::TUNL0;
use crate::ownership::routes::text;
use crate::step::words::count;

const BRIDGE: &str = "cni0";

/// Blackholes of either CNI's inside the network that is connected to cni0.
pub(super) fn shadows(node: &Node) -> Option<Found> {
    let network = &node.facts.network;
    let serves = node.flannel.in_use || network.links.iter().any(|l| l.master.as_deref() == Some(BRIDGE));
    let connected: Vec<&Address> = network.addresses.iter().filter(|a| a.link == BRIDGE).collect();
    let inside = |r: &&Route| connected.iter().any(|a| a.address.trunc().contains(&r.dst));
    let all = node.sides().into_iter().flat_map(|s| &s.inventory.image.routes);
    let holes: Vec<&Route> = all.filter(|r| serves && r.kind == RouteKind::Blackhole && inside(r)).collect();
    let mut commands: Vec<String> = holes.iter().map(|r| delete(r)).collect();
    // A blackhole of the very same length has taken the connected route's place, which does not come back by itself.
    for address in &connected {
        let net = address.address.trunc();
        let is_there = network.routes.iter().any(|r| r.dst == net && r.dev.as_deref() == Some(BRIDGE));
        if !is_there && holes.iter().any(|r| r.dst == net) {
            let gateway = address.address.addr();
            commands.push(format!("{} route add {net} dev {BRIDGE} proto kernel scope link src {gateway}", ip(&net)));
        }
    }
    Found::some(holes.iter().map(|r| text(r)).collect(), |objects| Found {
        what: format!("{} over pods on {BRIDGE}", count(objects.len(), "blackhole")),
        evidence: format!("the blackhole lies in the network that {BRIDGE} is connected to, and is as long or longer"),
        objects,
        command: commands.join("; "),
    })
}

/// Calico's address on tunl0 where nothing goes over it.
pub(super) fn tunl0(node: &Node) -> Option<Found> {
    let stripped = &node.calico.inventory.image.stripped;
    let network = &node.facts.network;
    // With IPIP, Calico's device for VXLAN is not there; a node alone has no route over the tunnel.
    let serves = network.link("vxlan.calico").is_none()
        || network.routes.iter().any(|r| r.dev.as_deref() == Some(TUNL0) && r.via.is_some());
    if node.calico.in_use && serves {
        return None;
    }
    let commands: Vec<String> =
        stripped.iter().map(|a| format!("ip address delete {} dev {TUNL0}", a.address)).collect();
    Found::some(stripped.iter().map(|a| format!("{} on {TUNL0}", a.address)).collect(), |objects| Found {
        what: format!("{TUNL0} has an address, and nothing goes over it"),
        evidence: "an address of the pod network, alone in its network as Calico sets it, and no route over the device"
            .into(),
        objects,
        command: if node.calico.in_use { commands.join("; ") } else { "nodectl cleanup --calico".into() },
    })
}

/// Blocks of this node in which no pod lives, beside others: what Calico's own collector takes back after a while. While the
/// cluster is being migrated, they are kept on purpose.
pub(super) fn empty_blocks(node: &Node) -> Option<Found> {
    let label = node.facts.cluster.as_ref().and_then(|c| c.labels.get(CALICO_MIGRATION_LABEL));
    if !node.calico.in_use || label.is_some_and(|value| value != "calico") {
        return None;
    }
    let network = &node.facts.network;
    let is_block = |r: &&Route| r.kind == RouteKind::Blackhole && r.dst.prefix_len() < r.dst.max_prefix_len();
    let blocks: Vec<&Route> = node.calico.inventory.image.routes.iter().filter(is_block).collect();
    let lives = |block: &IpNet| {
        let is_pods = |r: &Route| r.kind == RouteKind::Unicast && r.dev.is_some() && r.via.is_none();
        network.routes.iter().any(|r| is_pods(r) && r.dst != *block && block.contains(&r.dst))
            || network.addresses.iter().any(|a| block.contains(&a.address.addr()))
    };
    let same_family =
        |block: &IpNet| blocks.iter().filter(|b| b.dst.max_prefix_len() == block.max_prefix_len()).count();
    let empty: Vec<String> =
        blocks.iter().filter(|r| !lives(&r.dst) && same_family(&r.dst) > 1).map(|r| r.dst.to_string()).collect();
    Found::some(empty, |objects| {
        Found {
        what: format!("{} of Calico's addresses without a pod", count(objects.len(), "block")),
        evidence: "felix blackholes the block here, and no pod's route and no address of this node lies in it; the node has \
                   other blocks"
            .into(),
        objects,
        command: "kubectl -n kube-system rollout restart deployment calico-kube-controllers (it collects them after 15 minutes)"
            .into(),
    }
    })
}

/// The command that takes a route away.
pub(super) fn delete(route: &Route) -> String {
    format!("{} route delete {}", ip(&route.dst), text(route))
}

fn ip(net: &IpNet) -> &'static str {
    match net {
        IpNet::V4(_) => "ip",
        IpNet::V6(_) => "ip -6",
    }
}
