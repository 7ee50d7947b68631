//! Every node's pod CIDR as blocks of Calico's IPAM, with the addresses taken that pods must not get.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

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
    let claimed = claimed(survey);
    let nodes: Vec<Claim> = survey.nodes.iter().map(|n| Claim::new(survey, n)).collect();
    let owners = nodes.iter().flat_map(|n| {
        n.blocks.iter().filter_map(|block| Some((n.node, owner_problem(survey, &claimed, n.node, *block)?)))
    });
    let holders =
        nodes.iter().flat_map(|n| n.reserved.iter().filter_map(|r| Some((n.node, holder_problem(survey, n, r)?))));
    let tunnels = nodes
        .iter()
        .flat_map(|n| n.pod_cidrs.iter().filter_map(|cidr| Some((n.node, tunnel_problem(survey, n, *cidr)?))));
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
fn claimed<'a>(survey: &Survey<'a>) -> BTreeMap<IpNet, Vec<&'a str>> {
    let mut claimed: BTreeMap<IpNet, Vec<&str>> = BTreeMap::new();
    for affinity in &survey.facts.block_affinities {
        let confirmed = text(affinity, "/spec/state") == Some("confirmed") && !ipam::is_deleted(affinity);
        if let (Some(block), Some(node), true) = (ipam::block_cidr(affinity), text(affinity, "/spec/node"), confirmed) {
            claimed.entry(block).or_default().push(node);
        }
    }
    claimed
}

fn owner_problem(survey: &Survey, claimed: &BTreeMap<IpNet, Vec<&str>>, node: &str, block: IpNet) -> Option<String> {
    let existing = survey.blocks.live(&ipam::block_ref(block).name);
    if let Some(other) = existing.and_then(ipam::block_node).filter(|other| *other != node) {
        return Some(format!("block {block} of {node} belongs to {other}"));
    }
    if existing.is_some_and(|b| ipam::block_node(b).is_none() && ipam::has_allocations(b)) {
        return Some(format!("block {block} of {node} belongs to nobody and has addresses in use"));
    }
    let other = claimed.get(&block)?.iter().find(|other| **other != node)?;
    Some(format!("block {block} of {node} is claimed by {other}"))
}

fn holder_problem(survey: &Survey, node: &Claim, reserved: &Reservation) -> Option<String> {
    let block = node.block_with(reserved.address)?;
    let holder = ipam::holder(survey.blocks.live(&ipam::block_ref(block).name)?, reserved.address)?;
    let by = if holder.is_empty() { "something without a handle" } else { &holder };
    (holder != reserved.handle).then(|| format!("{} is held by {by}", reserved.address))
}

/// calico-node gives a node another address where the annotated one is not the handle's.
fn tunnel_problem(survey: &Survey, node: &Claim, pod_cidr: IpNet) -> Option<String> {
    let id = ipam::vtep_handle(node.node, pod_cidr);
    let handle = survey.handles.live(&ipam::handle_ref(&id).name)?;
    let own = node.block_with(pod_cidr.network())?;
    let others = handle.pointer("/spec/block")?.as_object()?.keys().filter(|block| **block != own.to_string());
    let others: Vec<String> = others.cloned().collect();
    (!others.is_empty()).then(|| format!("handle {id} holds another address, in block {}", others.join(" and ")))
}

/// The writes: handles before the blocks that name them, as Calico does it, and affinities last, so that a node never
/// counts on a block that is not there. All nodes' objects of one kind stand together, so that they can be written together.
pub fn changes(survey: &Survey) -> Vec<Change> {
    let known = survey.nodes.iter().filter(|n| survey.ends(n).is_some());
    let nodes: Vec<Claim> = known.map(|n| Claim::new(survey, n)).collect();
    let handles = nodes.iter().flat_map(|n| {
        let ids: BTreeSet<&str> = n.reserved.iter().map(|r| r.handle.as_str()).collect();
        // calico-node's own first.
        ids.into_iter().rev().filter_map(|id| handle(survey, id, n))
    });
    let blocks =
        nodes.iter().flat_map(|n| n.blocks.iter().filter_map(|cidr| block(survey, n.node, *cidr, &n.reserved)));
    let affinities = nodes.iter().flat_map(|n| n.blocks.iter().filter_map(|cidr| affinity(survey, n.node, *cidr)));
    handles.chain(blocks).chain(affinities).collect()
}

/// What a node's pod CIDRs come to.
struct Claim<'a> {
    node: &'a str,
    pod_cidrs: Vec<IpNet>,
    blocks: Vec<IpNet>,
    reserved: Vec<Reservation>,
}

impl<'a> Claim<'a> {
    fn new(survey: &Survey, node: &NodeView<'a>) -> Claim<'a> {
        let pod_cidrs = survey.pod_cidrs(node);
        let reserved = pod_cidrs.iter().flat_map(|cidr| ipam::reservations(node.name, *cidr)).collect();
        Claim { node: node.name, pod_cidrs, blocks: survey.blocks_of(node), reserved }
    }

    /// The block that an address lies in.
    fn block_with(&self, address: IpAddr) -> Option<IpNet> {
        self.blocks.iter().find(|block| block.contains(&address)).copied()
    }
}

fn handle(survey: &Survey, id: &str, node: &Claim) -> Option<Change> {
    let mut held: BTreeMap<IpNet, u64> = BTreeMap::new();
    for reservation in node.reserved.iter().filter(|r| r.handle == id) {
        *held.entry(node.block_with(reservation.address)?).or_default() += 1;
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
