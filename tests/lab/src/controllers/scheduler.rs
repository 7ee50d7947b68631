//! The scheduler: spreads Pods over Ready nodes that admit them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::access::Access;
use super::placement::{host_ports, selects, tolerates};
use super::pods::{is_active, is_finished};
use crate::apiserver::value::{condition, controller_of, is_true, now, text};
use crate::client::ClientResult;

/// Binds every Pod that waits for a node.
pub fn run(access: &Access) -> ClientResult<()> {
    let nodes = access.list("nodes")?;
    let pods = access.list("pods")?;
    // Where Pods are, those of this round included.
    let mut placed: Vec<(String, Arc<Value>)> = pods
        .iter()
        .filter(|pod| !text(&pod["spec"]["nodeName"]).is_empty() && !is_finished(pod))
        .map(|pod| (text(&pod["spec"]["nodeName"]).to_string(), pod.clone()))
        .collect();
    for pod in pods.iter().filter(|pod| text(&pod["spec"]["nodeName"]).is_empty() && is_active(pod)) {
        match choose(pod, &nodes, &placed) {
            Some(node) => {
                access.bind(pod, &node);
                placed.push((node, pod.clone()));
            }
            None => mark_unschedulable(access, pod, nodes.len()),
        }
    }
    Ok(())
}

/// The node with the fewest Pods of the same owner, then the fewest Pods.
fn choose(pod: &Value, nodes: &[Arc<Value>], placed: &[(String, Arc<Value>)]) -> Option<String> {
    let owner = |pod: &Value| controller_of(pod).map(|owner| owner["uid"].clone());
    let own = owner(pod);
    let ports = host_ports(&pod["spec"]);
    let fitting = nodes.iter().filter(|node| {
        is_true(node, "Ready")
            && node["spec"]["unschedulable"] != true
            && selects(&pod["spec"], node)
            && tolerates(&pod["spec"]["tolerations"], node, &["NoSchedule", "NoExecute"])
    });
    let scored = fitting.filter_map(|node| {
        let name = text(&node["metadata"]["name"]);
        let here: Vec<&Arc<Value>> = placed.iter().filter(|(place, _)| place == name).map(|(_, pod)| pod).collect();
        if here.iter().any(|other| host_ports(&other["spec"]).iter().any(|port| ports.contains(port))) {
            return None;
        }
        let kin = here.iter().filter(|other| own.is_some() && owner(other) == own).count();
        Some((kin, here.len(), name.to_string()))
    });
    scored.min().map(|(_, _, name)| name)
}

fn mark_unschedulable(access: &Access, pod: &Value, nodes: usize) {
    if condition(pod, "PodScheduled").is_some_and(|condition| condition["reason"] == "Unschedulable") {
        return;
    }
    let message = format!("0/{nodes} nodes are available.");
    let conditions = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": message, "lastTransitionTime": now()}]);
    access.patch("pods", pod, "status", &json!({"status": {"conditions": conditions}}));
}
