//! What a CNI that does not serve this node has left: by the ownership table, whose harm is told where it is known.

use super::findings::Found;
use super::node::{Node, Side};
use crate::cni::Cni;
use crate::ownership::files::FLANNEL_RUN;
use crate::ownership::firewall::tool;
use crate::ownership::{Group, Inventory, stays};
use crate::step::words::count;

/// flannel's masquerading on a node that is not on flannel.
pub(super) fn masquerade(node: &Node) -> Option<Found> {
    if node.flannel.in_use {
        return None;
    }
    let image = &node.flannel.inventory.image;
    let mut objects = Vec::new();
    for rules in &image.rules {
        for table in rules.owned.tables.iter().filter(|t| t.table == "nat") {
            let chains = table.chains.iter().filter(|c| c.starts_with("FLANNEL"));
            let hooks = table.hooks.iter().filter(|(chain, _, _)| chain == "POSTROUTING");
            let tool = tool(rules.backend, rules.family);
            objects.extend(chains.map(|chain| format!("{tool} nat {chain}")));
            objects.extend(hooks.map(|(chain, _, spec)| format!("{tool} nat {chain}: {spec}")));
        }
    }
    objects.extend(image.nft_tables.iter().map(|table| format!("nft {table}")));
    let by_handle = image.nft_rules.iter().filter(|r| r.chain == "POSTROUTING");
    objects.extend(by_handle.map(|rule| format!("nft {} {} handle {}", rule.table, rule.chain, rule.handle)));
    Found::some(objects, |objects| Found {
        what: "flannel's masquerading is left".into(),
        evidence: "flannel's chain names, comments and exact rules, and this node is not on flannel".into(),
        objects,
        command: cleanup(Cni::Flannel),
    })
}

/// felix's rules without felix.
pub(super) fn policy(node: &Node) -> Option<Found> {
    if node.calico.in_use {
        return None;
    }
    let claims = &node.calico.inventory.claims;
    let is_rule = |group: Group| matches!(group, Group::Chains | Group::Rules | Group::NftRules | Group::NftTables);
    let objects: Vec<String> = claims.iter().filter(|c| is_rule(c.group)).map(|c| c.object.clone()).collect();
    Found::some(objects, |objects| Found {
        what: "felix's rules are left".into(),
        evidence: "felix's prefixes, comment hashes and tables, and this node is not on Calico".into(),
        objects,
        command: cleanup(Cni::Calico),
    })
}

/// Everything that flannel has left.
pub(super) fn flannel(node: &Node) -> Option<Found> {
    left(node, &node.flannel)
}

/// Everything that Calico has left.
pub(super) fn calico(node: &Node) -> Option<Found> {
    left(node, &node.calico)
}

fn left(node: &Node, side: &Side) -> Option<Found> {
    if side.in_use {
        return None;
    }
    // The empty folder that kubelet made for flannel's pod is nothing to be told of.
    let is_empty = |path: &str| path == FLANNEL_RUN && node.traces().is_some_and(|t| !t.listings.contains_key(path));
    let told = side.inventory.own().filter(|c| !(c.group == Group::Files && is_empty(&c.object)));
    let objects = told.map(|c| format!("{} {}", c.group.singular(), c.object)).collect();
    Found::some(objects, |objects| Found {
        what: format!("{} of {} left: {}", count(objects.len(), "object"), side.cni, counts(&side.inventory)),
        evidence: format!(
            "each by its own evidence, which `nodectl cleanup --{} --dry-run` shows; no agent, no state, no configuration in \
             force and no living pod of {} is here",
            side.cni.name(),
            side.cni
        ),
        objects,
        command: cleanup(side.cni),
    })
}

/// Kinds, with how many.
fn counts(inventory: &Inventory) -> String {
    let mut kinds: Vec<(Group, usize)> = Vec::new();
    for claim in inventory.own() {
        match kinds.iter_mut().find(|(group, _)| *group == claim.group) {
            Some((_, n)) => *n += 1,
            None => kinds.push((claim.group, 1)),
        }
    }
    let words: Vec<String> = kinds.iter().map(|(group, n)| format!("{} {n}", group.title())).collect();
    words.join(", ")
}

/// A cleanup that was killed.
pub(super) fn unfinished(node: &Node) -> Option<Found> {
    let objects = node.begun.iter().map(|cni| format!("cleanup of {cni}")).collect();
    let commands: Vec<String> = node.begun.iter().map(|cni| cleanup(*cni)).collect();
    Found::some(objects, |objects| Found {
        what: format!("{} has not ended", objects.join(" and ")),
        evidence: "its record in /var/lib/nodectl/cleanups is open".into(),
        objects,
        command: commands.join("; "),
    })
}

/// Settings and rules of others that name a device which is not here and whose CNI does not serve this node.
pub(super) fn mentions(node: &Node) -> Option<Found> {
    let links = &node.facts.network.links;
    let is_there = |device: &str| {
        let start = device.trim_end_matches(['*', '+']);
        links.iter().any(|l| if start == device { l.name == device } else { l.name.starts_with(start) })
    };
    let unused = node.sides().into_iter().filter(|side| !side.in_use);
    let named = unused.flat_map(|side| stays::named(node.facts, side.cni, &side.inventory));
    let objects = named.filter(|n| !is_there(&n.device)).map(|n| format!("{} names {}", n.object, n.device)).collect();
    Found::some(objects, |objects: Vec<String>| {
        Found {
        what: format!("{} of others naming a device that is not here", count(objects.len(), "line")),
        evidence: "the device is a CNI's by its name, and that CNI does not serve this node".into(),
        command: "take the lines out by hand where they are of no use any more: they are somebody's, and nodectl touches none \
                  of them"
            .into(),
        objects,
    }
    })
}

fn cleanup(cni: Cni) -> String {
    format!("nodectl cleanup --{}", cni.name())
}
