//! `cluster abort`: everything that prepare changed goes back, as long as no node is on Calico. Pure.
//!
//! The order is prepare's, backwards: flannel's node selector goes before the labels that it asks for, and those only
//! when no flannel pod is left that asks for them itself.

use serde_json::{Value, json};

use super::change::Change;
use super::check::Check;
use super::daemon_set::{self as ds, full_name};
use super::decision::{Decision, Survey};
use super::facts::ClusterFacts;
use super::ipam;
use super::node::NodeView;
use super::object::{Kind, ObjectRef, annotation, find, find_in, items, label, name, namespace, set, text, unset};
use super::prepare::OVERLAY_ANNOTATIONS;
use super::record::{self, BlocksMade, Record};
use super::request::Request;
use crate::cni::{CALICO_MIGRATION_LABEL, Cni, NODE_LABEL, PACE_ANNOTATION, PREPARED_ANNOTATION, RUN_ANNOTATION};

/// Decides what `abort` has to do.
pub fn decide(facts: &ClusterFacts, request: &Request) -> Decision {
    let survey = Survey::new(facts, request);
    let without = "abort then leaves Calico's FelixConfiguration, pool, IPAM configuration and blocks as they are";
    let (known, readable) = record::known(facts.record.as_ref(), without);
    let checks = vec![
        readable,
        nodes_check(&survey),
        agents_check(&survey),
        survey.runs_check("abort-runs", "abort"),
        delivery_check(&survey),
    ];
    let mut decision = Decision { checks, ..Decision::default() };
    if decision.is_refused() {
        return decision;
    }
    let record = known.clone().unwrap_or_default();
    let gate = flannel_gate(&survey);
    // Canal's felix may look at VXLAN again only when the pool is gone.
    let is_canal = survey.flannel_daemon_sets().any(ds::is_canal);
    let (mut changes, last) = match (selectors(&survey, &record), is_canal) {
        (selectors, true) => (Vec::new(), selectors),
        (selectors, false) => (selectors, Vec::new()),
    };
    changes.extend(survey.nodes.iter().filter_map(|n| annotations(n, &record)));
    changes.extend(addresses(&survey, known.as_ref()));
    changes.extend(settings(&survey, &record));
    changes.extend(last);
    changes.extend(labels(&survey, &record).into_iter().map(|c| c.waiting_for(gate.as_deref())));
    if let Some(config_map) = &facts.record {
        changes.extend(
            Change::delete(record::target(), config_map, "nothing is left to put back")
                .map(|c| c.waiting_for(gate.as_deref())),
        );
    }
    if known.is_none() && !changes.is_empty() {
        decision.notes.push(
            "there is no record of what was there before the first prepare, so Calico's FelixConfiguration, pool, \
             IPAM configuration and blocks stay as they are"
                .to_owned(),
        );
    }
    decision.changes = changes;
    decision
}

fn nodes_check(survey: &Survey) -> Check {
    Check::refused_for_any(
        "abort-nodes",
        "no node has left flannel",
        "these nodes have left flannel, or are about to: ",
        &survey.nodes_not_for(Cni::Flannel),
        "take each of them back (nodectl revert, on the node), then run abort again",
    )
}

fn agents_check(survey: &Survey) -> Check {
    Check::refused_for_any(
        "abort-agents",
        "calico-node runs on no node",
        "calico-node runs on ",
        &survey.nodes_with(|p| survey.is_calico(p)),
        "take the node back (nodectl revert, on the node), or wait until the pod has left, then run abort again",
    )
}

fn delivery_check(survey: &Survey) -> Check {
    const NAME: &str = "flannel-owner";
    for daemon_set in survey.flannel_daemon_sets().filter(|d| ds::selects_our_label(d)) {
        if let Some(manager) = ds::delivery(daemon_set) {
            return Check::refused(
                NAME,
                format!(
                    "{} delivers DaemonSet {} with the node selector {NODE_LABEL}",
                    manager.what,
                    full_name(daemon_set)
                ),
                format!(
                    "take the node selector out of what {} delivers first: without it the labels can go",
                    manager.what
                ),
            );
        }
    }
    Check::passed(NAME, "nobody else delivers flannel's node selector")
}

/// flannel runs everywhere again.
fn selectors(survey: &Survey, record: &Record) -> Vec<Change> {
    let change = |daemon_set: &Value| {
        let target = ObjectRef::namespaced(Kind::DaemonSet, namespace(daemon_set), name(daemon_set));
        let reason = "flannel runs on every node again; this replaces flannel's pods one after the other";
        let wanted = without_our_variable(&ds::without_our_selector(daemon_set), record.before(&target));
        Change::update(target, daemon_set, wanted, reason)
    };
    survey.flannel_daemon_sets().filter_map(change).collect()
}

/// Canal's DaemonSet with felix' variable as it was before prepare. The record says whether prepare touched it; without one the pool
/// stays, and with it the variable.
fn without_our_variable(daemon_set: &Value, before: Option<&Value>) -> Value {
    let Some(containers) = before.and_then(|b| b.pointer("/spec/template/spec/containers")) else {
        return daemon_set.clone();
    };
    let node = items(containers, "").iter().find(|c| text(c, "/name") == Some("calico-node"));
    let env = node.map(|node| items(node, "/env")).unwrap_or_default();
    let was = env.iter().find(|variable| text(variable, "/name") == Some(ds::VXLAN_SWITCH));
    ds::with_variable(daemon_set, ds::VXLAN_SWITCH, was)
}

/// What the labels have to wait for: a flannel pod that asks for the label itself would not survive a restart of the
/// kubelet without it.
fn flannel_gate(survey: &Survey) -> Option<String> {
    let old = survey.replacement_of("flannel", |p| p.node_selector.contains_key(NODE_LABEL) && survey.is_flannel(p));
    let selects = || survey.flannel_daemon_sets().any(ds::selects_our_label);
    old.or_else(|| selects().then(|| "flannel's pods to be replaced".to_owned()))
}

/// Calico's and our own annotations.
fn annotations(node: &NodeView, record: &Record) -> Option<Change> {
    // Without ours, Calico's are somebody else's.
    annotation(node.object, PREPARED_ANNOTATION)?;
    let target = ObjectRef::cluster(Kind::Node, node.name);
    let mut wanted = node.object.clone();
    let overlay = OVERLAY_ANNOTATIONS.iter().flat_map(|a| [a.address, a.vtep_address, a.vtep_mac]);
    for key in overlay.chain([PREPARED_ANNOTATION, PACE_ANNOTATION, RUN_ANNOTATION]) {
        put_back(&mut wanted, "annotations", key, record.before(&target));
    }
    Change::update(target, node.object, wanted, "no Calico node will look for this one")
}

fn labels(survey: &Survey, record: &Record) -> Vec<Change> {
    let change = |node: &NodeView| {
        node.wanted?;
        let target = ObjectRef::cluster(Kind::Node, node.name);
        let before = annotations(node, record).and_then(|c| c.after).unwrap_or_else(|| node.object.clone());
        let mut wanted = before.clone();
        unset(&mut wanted, &["metadata", "labels", NODE_LABEL]);
        if label(node.object, CALICO_MIGRATION_LABEL).is_some() {
            put_back(&mut wanted, "labels", CALICO_MIGRATION_LABEL, record.before(&target));
        }
        Change::update(target, &before, wanted, "no agent is chosen by label any more")
    };
    survey.nodes.iter().filter_map(change).collect()
}

/// A label or annotation as it was, or away.
fn put_back(object: &mut Value, map: &str, key: &str, before: Option<&Value>) {
    let old = before.and_then(|b| b.pointer(&format!("/metadata/{map}"))?.get(key)).filter(|v| !v.is_null());
    match old {
        Some(old) => set(object, &["metadata", map, key], old.clone()),
        None => unset(object, &["metadata", map, key]),
    }
}

/// Blocks, affinities and handles: those that prepare made go; from older ones only our own addresses are released.
///
/// What is prepare's is known by the network, not by the block, which may be gone while a handle is left.
fn addresses(survey: &Survey, record: Option<&Record>) -> Vec<Change> {
    let made = record.map(|record| BlocksMade::new(survey, record));
    let own = |cidr: Option<&str>| {
        let cidr = cidr.and_then(|c| c.parse().ok());
        made.as_ref().zip(cidr).is_some_and(|(made, cidr)| made.contains(cidr))
    };
    let own_block = |object: &&Value| own(text(object, "/spec/cidr"));
    let mut changes = Vec::new();
    for affinity in survey.facts.block_affinities.iter().filter(own_block) {
        let target = ObjectRef::cluster(Kind::BlockAffinity, name(affinity));
        changes.extend(Change::delete(target, affinity, "no Calico node gives out addresses of this block"));
    }
    let (gone, kept): (Vec<&Value>, Vec<&Value>) = survey.facts.ipam_blocks.iter().partition(|b| own_block(b));
    for block in gone {
        let target = ObjectRef::cluster(Kind::IPAMBlock, name(block));
        changes.extend(Change::delete(target, block, "the block's addresses are flannel's alone again"));
    }
    changes.extend(kept.iter().filter_map(|b| released(b)));
    changes.extend(survey.facts.ipam_handles.iter().filter_map(|h| handle(h, &|block| own(Some(block)))));
    changes
}

/// A block without the addresses that are held for flannel's bridges.
pub fn released(block: &Value) -> Option<Change> {
    let ours = ipam::handles(block).into_iter().filter(|id| ipam::is_bridge_handle(id));
    let wanted = ours.fold(block.clone(), |block, id| ipam::release(&block, &id));
    let target = ObjectRef::cluster(Kind::IPAMBlock, name(block));
    Change::update(target, block, wanted, "addresses that were held for flannel's bridge are free again")
}

/// A handle without what it held in blocks that go.
fn handle(handle: &Value, goes: &dyn Fn(&str) -> bool) -> Option<Change> {
    let target = ObjectRef::cluster(Kind::IPAMHandle, name(handle));
    let id = text(handle, "/spec/handleID")?;
    let held = handle.pointer("/spec/block").and_then(Value::as_object)?;
    if ipam::is_bridge_handle(id) || (!held.is_empty() && held.keys().all(|block| goes(block))) {
        return Change::delete(target, handle, "it holds no address any more");
    }
    let mut wanted = handle.clone();
    held.keys().filter(|block| goes(block)).for_each(|block| unset(&mut wanted, &["spec", "block", block]));
    Change::update(target, handle, wanted, "it holds no address of the blocks that go")
}

/// The objects of which there is one for the cluster.
fn settings(survey: &Survey, record: &Record) -> Vec<Change> {
    let facts = survey.facts;
    let change = |remembered: &record::Remembered| {
        let target = &remembered.object;
        let existing = match target.kind {
            Kind::FelixConfiguration => find(&facts.felix_configurations, &target.name),
            Kind::IPPool => find(&facts.ip_pools, &target.name),
            Kind::IPAMConfig => find(&facts.ipam_configs, &target.name),
            Kind::ConfigMap => find_in(&facts.config_maps, &target.namespace, &target.name),
            _ => None,
        }?;
        if remembered.before == json!(null) {
            return Change::delete(target.clone(), existing, "it was not there before");
        }
        let mut wanted = existing.clone();
        record::undo(&mut wanted, &remembered.before);
        Change::update(target.clone(), existing, wanted, "as it was before")
    };
    // The pool goes before what its nodes' overlay is set up by.
    record.before.iter().rev().filter_map(change).collect()
}
