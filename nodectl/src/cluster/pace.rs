//! `cluster allow` and `cluster pause`: which nodes may begin. A node reads no Node but its own, so the word stands there, as
//! an annotation; a node without it begins when it is told to. Pure.

use serde_json::json;

use super::change::Change;
use super::check::{Check, listed};
use super::control_plane;
use super::decision::{Decision, Survey};
use super::facts::ClusterFacts;
use super::node::NodeView;
use super::object::{Kind, ObjectRef, annotation, set};
use super::request::Request;
use crate::cni::{Cni, PACE_ALLOWED, PACE_ANNOTATION, PACE_WAIT, PREPARED_ANNOTATION};

/// Decides what `allow` has to do.
pub fn allow(facts: &ClusterFacts, request: &Request) -> Decision {
    let survey = Survey::new(facts, request);
    let mut notes = Vec::new();
    let mut named: Vec<&NodeView> = survey.nodes.iter().filter(|n| is_meant(request, n) && waits_or_may(n)).collect();
    if request.nodes.is_empty() && named.iter().any(|n| !control_plane::is_of(n)) {
        let kept: Vec<String> = named.iter().filter(|n| control_plane::is_of(n)).map(|n| n.name.to_owned()).collect();
        named.retain(|n| !control_plane::is_of(n));
        if !kept.is_empty() {
            notes.push(format!("the control plane comes last, one node after the other: {}", listed(&kept)));
        }
    }
    let mut checks = vec![known_check(&survey), prepared_check(&named)];
    checks.extend(control_plane::checks(&survey, &named));
    let changes = named.iter().filter_map(|n| write(n, PACE_ALLOWED, "nodectl on the node may begin to switch it"));
    let mut decision = Decision { checks, notes, ..Decision::default() };
    if !decision.is_refused() {
        decision.changes = changes.collect();
    }
    decision
}

/// Decides what `pause` has to do.
pub fn pause(facts: &ClusterFacts, request: &Request) -> Decision {
    let survey = Survey::new(facts, request);
    let mut decision = Decision { checks: vec![known_check(&survey)], ..Decision::default() };
    if decision.is_refused() {
        return decision;
    }
    let meant = || survey.nodes.iter().filter(|n| is_meant(request, n));
    let between: Vec<String> = meant().filter(|n| n.wanted == Some("none")).map(|n| n.name.to_owned()).collect();
    if !between.is_empty() {
        decision.notes.push(format!("in the middle of its switch, and not stopped by this: {}", listed(&between)));
    }
    // One that is not prepared does not begin anyway.
    let changes = meant().filter(|n| waits_or_may(n) && annotation(n.object, PREPARED_ANNOTATION).is_some());
    decision.changes =
        changes.filter_map(|n| write(n, PACE_WAIT, "the node does not begin before it is allowed to")).collect();
    decision
}

/// What stands on a node: `wait`, `allowed`, or nothing.
pub fn of<'a>(node: &NodeView<'a>) -> Option<&'a str> {
    annotation(node.object, PACE_ANNOTATION)
}

/// The roll has a pace: it is asked for, or a node has the annotation already.
pub fn is_kept(survey: &Survey) -> bool {
    survey.request.pace || survey.nodes.iter().any(|n| of(n).is_some())
}

/// What a node gets from `prepare` where the roll has a pace: it waits, unless it has begun or was told something already.
pub fn initial(node: &NodeView) -> Option<&'static str> {
    (of(node).is_none() && waits_or_may(node)).then_some(PACE_WAIT)
}

fn is_meant(request: &Request, node: &NodeView) -> bool {
    !node.is_foreign() && (request.nodes.is_empty() || request.nodes.iter().any(|name| name == node.name))
}

/// It is on flannel: there is something to begin.
fn waits_or_may(node: &NodeView) -> bool {
    node.wanted.is_none_or(|wanted| wanted == Cni::Flannel.name())
}

fn write(node: &NodeView, word: &str, reason: &str) -> Option<Change> {
    let mut wanted = node.object.clone();
    set(&mut wanted, &["metadata", "annotations", PACE_ANNOTATION], json!(word));
    Change::update(ObjectRef::cluster(Kind::Node, node.name), node.object, wanted, reason)
}

fn known_check(survey: &Survey) -> Check {
    let unknown = survey.request.nodes.iter().filter(|name| !survey.nodes.iter().any(|n| n.name == name.as_str()));
    Check::refused_for_any(
        "nodes-known",
        "every node that was named is there",
        "there is no node ",
        &unknown.cloned().collect::<Vec<_>>(),
        "see kubectl get nodes",
    )
}

fn prepared_check(named: &[&NodeView]) -> Check {
    let missing = named.iter().filter(|n| annotation(n.object, PREPARED_ANNOTATION).is_none());
    Check::refused_for_any(
        "nodes-prepared",
        "every node that may begin is prepared",
        "these nodes are not prepared: ",
        &missing.map(|n| n.name.to_owned()).collect::<Vec<_>>(),
        "run nodectl cluster prepare first",
    )
}
