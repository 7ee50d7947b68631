//! The control plane: its nodes are switched last, one at a time, and only while all of them are well. Pure.

use super::check::Check;
use super::daemon_set as ds;
use super::decision::Survey;
use super::facts::AgentPod;
use super::node::NodeView;
use super::object::label;
use super::pace;
use crate::cni::{Cni, PACE_ALLOWED};

/// Labels of the control plane's nodes: since Kubernetes 1.20, before 1.24, and Rancher's.
const ROLES: [&str; 3] =
    ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master", "node-role.kubernetes.io/controlplane"];

/// The node is of the control plane.
pub fn is_of(node: &NodeView) -> bool {
    ROLES.iter().any(|role| label(node.object, role).is_some())
}

/// The checks before these nodes may begin.
pub fn checks(survey: &Survey, named: &[&NodeView]) -> Vec<Check> {
    let ours: Vec<&NodeView> = named.iter().copied().filter(|n| is_of(n)).collect();
    if ours.is_empty() {
        return vec![Check::passed("control-plane", "no node of the control plane is among them")];
    }
    if survey.request.force {
        return vec![Check::warning(
            "control-plane",
            "nodes of the control plane may begin in any order",
            "nothing: --force was given",
        )];
    }
    vec![last(survey), one_at_a_time(survey, &ours), quorum(survey, &ours)]
}

fn last(survey: &Survey) -> Check {
    let is_worker = |n: &NodeView| !n.is_foreign() && !is_of(n);
    let workers = survey.nodes_for(|n| lacks(survey, n).filter(|_| is_worker(n)));
    Check::refused_for_any(
        "control-plane-last",
        "every other node is on Calico",
        "the control plane comes last, and these nodes are not on Calico yet: ",
        &workers,
        "switch them first, until calico-node is ready there and each run is closed (nodectl cluster status), or accept another order \
         with --force",
    )
}

fn one_at_a_time(survey: &Survey, ours: &[&NodeView]) -> Check {
    let is_other = |n: &NodeView| is_of(n) && !ours.iter().any(|o| o.name == n.name);
    let mut names = survey.nodes_for(|n| underway(survey, n).filter(|_| is_other(n)));
    names.extend(ours.iter().map(|n| n.name.to_owned()));
    names.sort_unstable();
    let found = if names.len() > 1 { names } else { Vec::new() };
    Check::refused_for_any(
        "control-plane-one",
        "no other node of the control plane may begin or has begun",
        "one node of the control plane after the other: these would be at the same time ",
        &found,
        "allow one of them, and the next when that one is on Calico: calico-node is ready there and its run is closed (nodectl cluster \
         status)",
    )
}

/// etcd's members run on the nodes of the control plane, unless etcd is elsewhere: with one of them lost already, a second one
/// that does not come back ends the quorum of three.
fn quorum(survey: &Survey, ours: &[&NodeView]) -> Check {
    const NAME: &str = "control-plane-quorum";
    let others = survey.nodes.iter().filter(|n| is_of(n) && !ours.iter().any(|o| o.name == n.name));
    let unwell: Vec<String> = others.filter(|n| !n.is_ready()).map(|n| n.name.to_owned()).collect();
    if let Some(problem) = &survey.facts.etcd_problem {
        return Check::refused(
            NAME,
            format!("the API server says of its etcd: {problem}"),
            "mend etcd first (kubectl get --raw '/readyz?verbose')",
        );
    }
    Check::refused_for_any(
        NAME,
        "the API server finds its etcd well, and the rest of the control plane is Ready",
        "etcd may not have a member to lose: not Ready is ",
        &unwell,
        "mend these nodes first",
    )
}

/// What a node lacks to be on Calico, in a few words. The label alone says where it is to be: it stands there from the beginning of
/// the agents' change on, and as long as the node may still go back.
fn lacks(survey: &Survey, node: &NodeView) -> Option<String> {
    if node.wanted != Some(Cni::Calico.name()) {
        return Some(node.wanted.unwrap_or("no label").to_owned());
    }
    let is_calico = |pod: &AgentPod| ds::agent_of(survey.facts, pod) == Some(Cni::Calico);
    let serves = |pod: &AgentPod| pod.node == node.name && pod.ready && !pod.terminating && is_calico(pod);
    node.unclosed()
        .or_else(|| (!survey.facts.pods.iter().any(serves)).then(|| "calico-node is not ready there".to_owned()))
}

/// Why a node that is not on Calico counts as one that has begun, or may.
fn underway(survey: &Survey, node: &NodeView) -> Option<String> {
    let lacks = lacks(survey, node)?;
    let on_flannel = node.wanted.is_none_or(|wanted| wanted == Cni::Flannel.name());
    if !on_flannel {
        return Some(lacks);
    }
    node.unclosed().or_else(|| (pace::of(node) == Some(PACE_ALLOWED)).then(|| "it may begin".to_owned()))
}
