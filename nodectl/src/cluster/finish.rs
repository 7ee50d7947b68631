//! `cluster finish`: when no node is on flannel any more, flannel's objects go, and everything of ours. Pure.
//!
//! Every step follows from what is there now, so a run that was broken off is taken up by the next, wherever it was.

use serde_json::Value;

use super::abort::released;
use super::change::Change;
use super::check::{Check, listed};
use super::daemon_set::{self as ds, full_name};
use super::decision::{Decision, Survey};
use super::facts::{AgentPod, ClusterFacts};
use super::ipam;
use super::node::NodeView;
use super::object::{Kind, ObjectRef, find_in, name, namespace, text, unset};
use super::record::{self, FlannelParts, Record};
use super::request::Request;
use crate::cni::{CALICO_MIGRATION_LABEL, Cni, NODE_LABEL, PACE_ANNOTATION, PREPARED_ANNOTATION, RUN_ANNOTATION};

/// What flannel writes on a node, after the prefix.
const FLANNEL_ANNOTATIONS: [&str; 6] =
    ["kube-subnet-manager", "backend-type", "backend-data", "public-ip", "backend-v6-data", "public-ipv6"];

/// Decides what `finish` has to do.
pub fn decide(facts: &ClusterFacts, request: &Request) -> Decision {
    let survey = Survey::new(facts, request);
    let without = "finish then knows flannel's objects by its DaemonSet alone, so that has to be there still";
    let (known, readable) = record::known(facts.record.as_ref(), without);
    let was_prepared = prepared_check(&survey, known.as_ref());
    let parts = survey.flannel.as_ref().map(|f| f.parts()).or_else(|| known.map(|r| r.flannel));
    let checks = vec![
        readable,
        was_prepared,
        labels_check(&survey),
        flannel_check(&survey),
        calico_check(&survey),
        survey.runs_check("finish-runs", "finish"),
        delivery_check(&survey),
        calico_delivery_check(&survey),
    ];
    let mut decision = Decision { checks, ..Decision::default() };
    if decision.is_refused() {
        return decision;
    }
    let mut changes = Vec::new();
    if let Some(parts) = &parts {
        changes.extend(flannel(&survey, parts));
        changes.extend(own_namespace(&survey, parts, &mut decision.notes));
    }
    changes.extend(calico_selector(&survey));
    let gate = calico_gate(&survey);
    let prefix = parts.map(|p| p.annotation_prefix).unwrap_or_default();
    let nodes = survey.nodes.iter().filter_map(|n| node(n, &prefix));
    changes.extend(nodes.map(|c| c.waiting_for(gate.as_deref())));
    if !request.keep_reservations {
        changes.extend(reservations(&survey).into_iter().map(|c| c.waiting_for(gate.as_deref())));
    }
    if let Some(config_map) = &facts.record {
        changes.extend(
            Change::delete(record::target(), config_map, "the roll is over").map(|c| c.waiting_for(gate.as_deref())),
        );
    }
    decision.changes = changes;
    decision
}

/// Where flannel's DaemonSet is gone and nobody was ever switched, there is no roll to finish: Calico would start on every node.
fn prepared_check(survey: &Survey, known: Option<&Record>) -> Check {
    const NAME: &str = "finish-prepared";
    let begun = known.is_some() || survey.facts.record.is_some() || survey.nodes.iter().any(|n| n.wanted.is_some());
    if begun || calico_selector(survey).is_none() {
        return Check::passed(NAME, "there is a roll to finish, or nothing is left of it");
    }
    Check::refused(
        NAME,
        format!(
            "this cluster was not prepared: there is no {}, and no node has the label {NODE_LABEL}",
            record::target()
        ),
        "run nodectl cluster prepare and switch the nodes first",
    )
}

fn labels_check(survey: &Survey) -> Check {
    Check::refused_for_any(
        "finish-nodes",
        "no node is labelled for flannel",
        "these nodes are not on Calico: ",
        &survey.nodes_not_for(Cni::Calico),
        "switch each of them (nodectl migrate --to calico, on the node), then run finish again",
    )
}

fn flannel_check(survey: &Survey) -> Check {
    Check::refused_for_any(
        "finish-flannel",
        "flannel runs on no node",
        "flannel still runs on ",
        &survey.nodes_with(|p| survey.is_flannel(p)),
        "switch the node (nodectl migrate --to calico, on the node), or wait until the pod has left, then run finish again",
    )
}

/// Calico serves every node before flannel goes. A node that joined after the last switch has no agent yet: it gets
/// calico-node as soon as the node selector is gone. Later on calico-node's pods are replaced, and that is waited for.
fn calico_check(survey: &Survey) -> Check {
    const NAME: &str = "finish-calico";
    if survey.flannel_daemon_sets().next().is_none() {
        return Check::passed(NAME, "flannel is gone already");
    }
    let without = without_calico(survey);
    if !without.is_empty() {
        return Check::refused(
            NAME,
            format!("calico-node is not ready on {}", listed(&without)),
            "see what keeps it (kubectl describe pod, kubectl logs of the calico-node pod there), then run finish again",
        );
    }
    if !survey.facts.pods.iter().any(|p| p.ready && survey.is_calico(p)) {
        return Check::refused(
            NAME,
            "calico-node runs on no node at all, so flannel cannot go",
            "switch the nodes first (nodectl cluster prepare, then nodectl migrate --to calico on each node)",
        );
    }
    Check::passed(NAME, "calico-node is ready on every node that is labelled for it")
}

/// Nodes labelled for Calico where calico-node is not ready.
fn without_calico(survey: &Survey) -> Vec<String> {
    let serves = |node: &str| survey.facts.pods.iter().any(|p| p.node == node && p.ready && survey.is_calico(p));
    let labelled = survey.nodes.iter().filter(|n| n.wanted == Some(Cni::Calico.name()));
    labelled.filter(|n| !serves(n.name)).map(|n| n.name.to_owned()).collect()
}

fn delivery_check(survey: &Survey) -> Check {
    const NAME: &str = "flannel-owner";
    for daemon_set in survey.flannel_daemon_sets() {
        if let Some(manager) = ds::delivery(daemon_set).or_else(|| ds::addon_manager(daemon_set)) {
            return Check::refused(
                NAME,
                format!(
                    "{} delivers DaemonSet {} ({}) and would bring it back",
                    manager.what,
                    full_name(daemon_set),
                    manager.mark
                ),
                format!(
                    "take flannel out of what {} delivers (for Helm: helm uninstall), then run finish again: it does the rest",
                    manager.what
                ),
            );
        }
    }
    Check::passed(NAME, "nobody else delivers flannel's DaemonSet")
}

/// Who puts the node selector back when the labels are gone takes calico-node off every node.
fn calico_delivery_check(survey: &Survey) -> Check {
    const NAME: &str = "calico-owner";
    let calico = survey.calico.as_ref();
    let found = calico.and_then(|c| find_in(&survey.facts.daemon_sets, &c.namespace, &c.daemon_set));
    let selected = found.filter(|daemon_set| ds::selects_our_label(daemon_set));
    let manager = selected.and_then(|d| Some((d, ds::delivery(d).or_else(|| ds::addon_manager(d))?)));
    let Some((daemon_set, manager)) = manager else {
        return Check::passed(NAME, "nobody else delivers calico-node's node selector");
    };
    Check::refused(
        NAME,
        format!(
            "{} delivers DaemonSet {} ({}) with the node selector {NODE_LABEL}: put back when the nodes have lost that label, it would take calico-node off all of them",
            manager.what,
            full_name(daemon_set),
            manager.mark
        ),
        format!(
            "take the node selector {NODE_LABEL} out of what {} delivers, let calico-node's pods be replaced, then run finish again",
            manager.what
        ),
    )
}

/// flannel's objects: the DaemonSets first, then what its pods lived on.
fn flannel(survey: &Survey, parts: &FlannelParts) -> Vec<Change> {
    let facts = survey.facts;
    let rest = &facts.flannel_rest;
    let mut changes = Vec::new();
    let mut delete = |kind: Kind, object: &Value, reason: &str| {
        let target = ObjectRef { kind, namespace: namespace(object).to_owned(), name: name(object).to_owned() };
        changes.extend(Change::delete(target, object, reason));
    };
    for daemon_set in parts.daemon_sets.iter().filter_map(|n| find_in(&facts.daemon_sets, &parts.namespace, n)) {
        delete(Kind::DaemonSet, daemon_set, "no node is on flannel");
    }
    if let Some(map) = parts.config_map.as_ref().and_then(|n| find_in(&facts.config_maps, &parts.namespace, n)) {
        delete(Kind::ConfigMap, map, "flannel's configuration");
    }
    // The roles are found by their bindings, and these by the account: in this order none is ever left behind.
    rest.cluster_roles.iter().for_each(|o| delete(Kind::ClusterRole, o, "flannel's permissions"));
    rest.cluster_role_bindings.iter().for_each(|o| delete(Kind::ClusterRoleBinding, o, "flannel's permissions"));
    rest.service_accounts.iter().for_each(|o| delete(Kind::ServiceAccount, o, "flannel's identity"));
    changes
}

/// The namespace that flannel had to itself goes when nothing else lives in it.
fn own_namespace(survey: &Survey, parts: &FlannelParts, notes: &mut Vec<String>) -> Option<Change> {
    let rest = &survey.facts.flannel_rest;
    let object = rest.namespace.as_ref()?;
    let mut ours: Vec<String> = parts.daemon_sets.iter().map(|n| format!("DaemonSet {n}")).collect();
    ours.extend(parts.config_map.iter().map(|n| format!("ConfigMap {n}")));
    ours.extend(parts.service_account.iter().map(|n| format!("ServiceAccount {n}")));
    let others: Vec<String> = rest.inhabitants.iter().filter(|i| !ours.contains(i)).cloned().collect();
    if others.is_empty() {
        let target = ObjectRef::cluster(Kind::Namespace, &parts.namespace);
        return Change::delete(target, object, "nothing but flannel lived in it");
    }
    notes.push(format!("namespace {} stays, for something else lives in it: {}", parts.namespace, listed(&others)));
    None
}

/// calico-node runs on every node, those included that join later.
fn calico_selector(survey: &Survey) -> Option<Change> {
    let calico = survey.calico.as_ref()?;
    let existing = find_in(&survey.facts.daemon_sets, &calico.namespace, &calico.daemon_set)?;
    let target = ObjectRef::namespaced(Kind::DaemonSet, &calico.namespace, &calico.daemon_set);
    let reason = "calico-node runs on every node from now on; this replaces its pods one after the other";
    Change::update(target, existing, ds::without_our_selector(existing), reason)
}

/// What the labels have to wait for: a calico-node pod that asks for the label itself would not survive a restart of
/// the kubelet without it.
fn calico_gate(survey: &Survey) -> Option<String> {
    if calico_selector(survey).is_some() {
        return Some("calico-node's pods to be replaced".to_owned());
    }
    let is_old = |p: &AgentPod| survey.is_calico(p) && p.node_selector.contains_key(NODE_LABEL);
    survey.replacement_of("calico-node", is_old).or_else(|| {
        let without = without_calico(survey);
        (!without.is_empty()).then(|| format!("calico-node to become ready on {}", listed(&without)))
    })
}

/// Our labels and annotations, Calico's migration label, flannel's annotations.
fn node(node: &NodeView, annotation_prefix: &str) -> Option<Change> {
    let mut wanted = node.object.clone();
    for key in [NODE_LABEL, CALICO_MIGRATION_LABEL] {
        unset(&mut wanted, &["metadata", "labels", key]);
    }
    for key in [PREPARED_ANNOTATION, PACE_ANNOTATION, RUN_ANNOTATION] {
        unset(&mut wanted, &["metadata", "annotations", key]);
    }
    if !annotation_prefix.is_empty() {
        for key in FLANNEL_ANNOTATIONS {
            unset(&mut wanted, &["metadata", "annotations", &format!("{annotation_prefix}{key}")]);
        }
    }
    let reason = "no agent is chosen by label any more, and no flannel peer looks for the node";
    Change::update(ObjectRef::cluster(Kind::Node, node.name), node.object, wanted, reason)
}

/// The addresses that were held for flannel's bridges. They go to the end of their blocks' queues.
fn reservations(survey: &Survey) -> Vec<Change> {
    let facts = survey.facts;
    let mut changes: Vec<Change> = facts.ipam_blocks.iter().filter_map(released).collect();
    for handle in &facts.ipam_handles {
        if text(handle, "/spec/handleID").is_some_and(ipam::is_bridge_handle) {
            let target = ObjectRef::cluster(Kind::IPAMHandle, name(handle));
            changes.extend(Change::delete(target, handle, "it holds no address any more"));
        }
    }
    changes
}
