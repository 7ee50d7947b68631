//! Every node's pod CIDR as blocks of Calico's IPAM, with the addresses taken that pods must not get.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde_json::Value;

use super::nodes::summary;
use crate::cluster::change::Change;
use crate::cluster::check::Check;
use crate::cluster::decision::Survey;
use crate::cluster::ipam::{self, Reservation};
use crate::cluster::node::NodeView;
use crate::cluster::object::{set, text};

/// Nobody else holds what the nodes need.
pub fn checks(survey: &Survey) -> Vec<Check> {
    let claims = claims(survey);
    let owners = survey.nodes.iter().flat_map(|node| {
        let blocks = survey.blocks_of(node).into_iter();
        blocks.filter_map(|block| Some((node.name, owner_problem(survey, &claims, node, block)?))).collect::<Vec<_>>()
    });
    let nodes: Vec<(&NodeView, IpNet)> =
        survey.nodes.iter().flat_map(|n| survey.pod_cidrs(n).into_iter().map(move |cidr| (n, cidr))).collect();
    let holders = nodes.iter().flat_map(|(node, cidr)| {
        let reserved = ipam::reservations(node.name, *cidr);
        reserved.iter().filter_map(|r| Some((node.name, holder_problem(survey, r, node)?))).collect::<Vec<_>>()
    });
    let tunnels = nodes.iter().filter_map(|(node, cidr)| Some((node.name, tunnel_problem(survey, node, *cidr)?)));
    vec![
        summary(
            "node-blocks",
            "no block of a node's pod CIDR belongs to another node",
            owners,
            "see who uses it (calicoctl ipam show --show-blocks); where no pod does: kubectl delete ipamblocks NAME, kubectl delete blockaffinities NODE-NAME",
        ),
        summary(
            "node-addresses",
            "the addresses of flannel's overlay devices and bridges are free, or reserved already",
            holders.chain(tunnels),
            "delete the pod that has the address, or release it if it leaked: calicoctl ipam release --ip=ADDRESS",
        ),
    ]
}

/// Confirmed affinities, by block.
fn claims<'a>(survey: &Survey<'a>) -> BTreeMap<IpNet, Vec<&'a str>> {
    let mut claims: BTreeMap<IpNet, Vec<&str>> = BTreeMap::new();
    for affinity in &survey.facts.block_affinities {
        let confirmed = text(affinity, "/spec/state") == Some("confirmed") && !ipam::is_deleted(affinity);
        if let (Some(block), Some(node), true) = (ipam::block_cidr(affinity), text(affinity, "/spec/node"), confirmed) {
            claims.entry(block).or_default().push(node);
        }
    }
    claims
}

fn owner_problem(
    survey: &Survey,
    claims: &BTreeMap<IpNet, Vec<&str>>,
    node: &NodeView,
    block: IpNet,
) -> Option<String> {
    let existing = survey.blocks.live(&ipam::block_ref(block).name);
    if let Some(other) = existing.and_then(ipam::block_node).filter(|other| *other != node.name) {
        return Some(format!("block {block} of {} belongs to {other}", node.name));
    }
    if existing.is_some_and(|b| ipam::block_node(b).is_none() && ipam::has_allocations(b)) {
        return Some(format!("block {block} of {} belongs to nobody and has addresses in use", node.name));
    }
    let other = claims.get(&block)?.iter().find(|other| **other != node.name)?;
    Some(format!("block {block} of {} is claimed by {other}", node.name))
}

fn holder_problem(survey: &Survey, reserved: &Reservation, node: &NodeView) -> Option<String> {
    let block = survey.blocks_of(node).into_iter().find(|b| b.contains(&reserved.address))?;
    let holder = ipam::holder(survey.blocks.live(&ipam::block_ref(block).name)?, reserved.address)?;
    let by = if holder.is_empty() { "something without a handle" } else { &holder };
    (holder != reserved.handle).then(|| format!("{} is held by {by}", reserved.address))
}

/// calico-node gives a node another address where the annotated one is not the handle's.
fn tunnel_problem(survey: &Survey, node: &NodeView, pod_cidr: IpNet) -> Option<String> {
    let id = ipam::vtep_handle(node.name, pod_cidr);
    let handle = survey.handles.live(&ipam::handle_ref(&id).name)?;
    let own = survey.blocks_of(node).into_iter().find(|b| b.contains(&pod_cidr.network()))?;
    let others = handle.pointer("/spec/block")?.as_object()?.keys().filter(|block| **block != own.to_string());
    let others: Vec<String> = others.cloned().collect();
    (!others.is_empty()).then(|| format!("handle {id} holds another address, in block {}", others.join(" and ")))
}

/// The writes: handles before the blocks that name them, as Calico does it, and affinities last, so that a node never
/// counts on a block that is not there. All nodes' objects of one kind stand together, so that they can be written together.
pub fn changes(survey: &Survey) -> Vec<Change> {
    let nodes: Vec<Claim> = survey.nodes.iter().filter_map(|n| Claim::new(survey, n)).collect();
    let handles = nodes.iter().flat_map(|n| {
        let mut ids: Vec<&str> = n.reserved.iter().map(|r| r.handle.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        // calico-node's own first.
        ids.reverse();
        ids.into_iter().filter_map(|id| handle(survey, id, &n.reserved, &n.blocks)).collect::<Vec<_>>()
    });
    let blocks =
        nodes.iter().flat_map(|n| n.blocks.iter().filter_map(|cidr| block(survey, n.node, *cidr, &n.reserved)));
    let affinities = nodes.iter().flat_map(|n| n.blocks.iter().filter_map(|cidr| affinity(survey, n.node, *cidr)));
    handles.chain(blocks).chain(affinities).collect()
}

/// What a node's pod CIDRs come to.
struct Claim<'a> {
    node: &'a str,
    blocks: Vec<IpNet>,
    reserved: Vec<Reservation>,
}

impl<'a> Claim<'a> {
    fn new(survey: &Survey, node: &NodeView<'a>) -> Option<Claim<'a>> {
        let ends = survey.ends(node)?;
        let reserved = ends.iter().flat_map(|end| ipam::reservations(node.name, end.pod_cidr)).collect();
        Some(Claim { node: node.name, blocks: survey.blocks_of(node), reserved })
    }
}

fn handle(survey: &Survey, id: &str, reserved: &[Reservation], blocks: &[IpNet]) -> Option<Change> {
    let mut held: BTreeMap<IpNet, u64> = BTreeMap::new();
    for reservation in reserved.iter().filter(|r| r.handle == id) {
        let block = blocks.iter().find(|b| b.contains(&reservation.address))?;
        *held.entry(*block).or_default() += 1;
    }
    if held.is_empty() {
        return None;
    }
    let reason = "holds addresses that flannel uses on the node and that no pod may get";
    let target = ipam::handle_ref(id);
    let Some(existing) = survey.handles.get(&target.name) else {
        return Some(Change::create(target, ipam::handle(id, &held), reason));
    };
    if !ipam::is_deleted(existing) && existing.pointer("/spec/block") == ipam::handle_spec(id, &held).get("block") {
        return None;
    }
    let mut wanted = existing.clone();
    set(&mut wanted, &["spec"], ipam::handle_spec(id, &held));
    Change::update(target, existing, wanted, reason)
}

fn block(survey: &Survey, node: &str, cidr: IpNet, reserved: &[Reservation]) -> Option<Change> {
    let reason = format!("part of {node}'s pod CIDR: only {node} may give out its addresses");
    let target = ipam::block_ref(cidr);
    let now = &survey.request.now;
    let new = || ipam::new_block(node, cidr, reserved, &now.rfc3339, now.unix_ns);
    let Some(existing) = survey.blocks.get(&target.name) else {
        return Some(Change::create(target, new(), reason));
    };
    let mut wanted = if ipam::is_deleted(existing) {
        let mut fresh = existing.clone();
        set(&mut fresh, &["spec"], new().get("spec").cloned().unwrap_or_default());
        fresh
    } else {
        ipam::reserve(existing, node, reserved)
    };
    if ipam::block_node(&wanted).is_none() {
        set(&mut wanted, &["spec", "affinity"], Value::String(ipam::affinity_text(node)));
    }
    Change::update(target, existing, wanted, reason)
}

fn affinity(survey: &Survey, node: &str, cidr: IpNet) -> Option<Change> {
    let reason = format!("confirms that the block is {node}'s");
    let target = ipam::affinity_ref(node, cidr);
    let Some(existing) = survey.affinities.get(&target.name) else {
        return Some(Change::create(target, ipam::affinity(node, cidr), reason));
    };
    if text(existing, "/spec/state") == Some("confirmed") && !ipam::is_deleted(existing) {
        return None;
    }
    let mut wanted = existing.clone();
    set(&mut wanted, &["spec"], ipam::affinity_spec(node, cidr));
    Change::update(target, existing, wanted, reason)
}
