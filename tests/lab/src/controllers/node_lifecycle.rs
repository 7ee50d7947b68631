//! Nodes: pod networks, heartbeats, taints by condition, and the Pods of nodes that are lost.

use std::sync::Arc;

use serde_json::{Value, json};

use super::access::Access;
use super::placement::covers;
use super::pods::is_active;
use crate::apiserver::ControllerOptions;
use crate::apiserver::value::{condition, items, now, parse_time, text, unix_now};
use crate::client::ClientResult;

/// Taints that this controller sets and removes; all others are the administrator's.
const OWN_TAINTS: &[&str] = &[
    "node.kubernetes.io/unschedulable",
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/network-unavailable",
];

/// Looks after every node.
pub fn run(access: &Access, options: &ControllerOptions) -> ClientResult<()> {
    let nodes = access.list("nodes")?;
    let leases = access.list("leases.coordination.k8s.io")?;
    let pods = access.list("pods")?;
    for node in &nodes {
        if text(&node["spec"]["podCIDR"]).is_empty() {
            allocate(access, options, node, &nodes);
            continue;
        }
        let silent = silence(node, &leases) > i64::try_from(options.node_grace_ms.as_millis()).unwrap_or(i64::MAX);
        if silent && condition(node, "Ready").is_some_and(|ready| ready["status"] != "Unknown") {
            give_up(access, node, &pods);
            continue;
        }
        let taints = taints(node);
        if Some(&taints) != node["spec"]["taints"].as_array()
            && (!taints.is_empty() || !node["spec"]["taints"].is_null())
        {
            let patch = json!({"metadata": {"resourceVersion": node["metadata"]["resourceVersion"]},
                "spec": {"taints": taints}});
            access.patch("nodes", node, "", &patch);
        }
        evict_intolerant(access, node, &pods);
    }
    for pod in pods.iter().filter(|pod| is_orphan(pod, &nodes)) {
        access.delete("pods", pod, Some(0));
    }
    Ok(())
}

/// A node gets a /24, and in a dual-stack cluster a /64 too; all or none.
fn allocate(access: &Access, options: &ControllerOptions, node: &Value, nodes: &[Arc<Value>]) {
    let networks =
        std::iter::once((options.cluster_cidr.into(), 24)).chain(options.cluster_cidr_v6.map(|v6| (v6.into(), 64)));
    let cidrs: Option<Vec<String>> = networks.map(|(network, length)| free(network, length, node, nodes)).collect();
    if let Some(cidrs) = cidrs {
        access.patch("nodes", node, "", &json!({"spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs}}));
    }
}

/// Node N of a name that ends in N gets the Nth subnet, if it is free; others the lowest free one.
fn free(network: ipnet::IpNet, length: u8, node: &Value, nodes: &[Arc<Value>]) -> Option<String> {
    let name = text(&node["metadata"]["name"]);
    let digits: String =
        name.chars().rev().take_while(char::is_ascii_digit).collect::<Vec<_>>().into_iter().rev().collect();
    let taken = |subnet: &str| {
        nodes.iter().any(|other| {
            other["spec"]["podCIDR"] == subnet || items(&other["spec"]["podCIDRs"]).any(|cidr| cidr == subnet)
        })
    };
    let free: Vec<String> =
        network.subnets(length).ok()?.map(|subnet| subnet.to_string()).filter(|subnet| !taken(subnet)).collect();
    let own = digits.parse().ok().and_then(|number| network.subnets(length).ok()?.nth(number));
    let own = own.map(|subnet| subnet.to_string()).filter(|subnet| free.contains(subnet));
    own.or_else(|| free.into_iter().nth(1))
}

/// Milliseconds since the node's last sign of life.
fn silence(node: &Value, leases: &[Arc<Value>]) -> i64 {
    let name = &node["metadata"]["name"];
    let lease = leases
        .iter()
        .find(|lease| lease["metadata"]["namespace"] == "kube-node-lease" && lease["metadata"]["name"] == *name);
    let signs = [
        lease.and_then(|lease| parse_time(&lease["spec"]["renewTime"])),
        condition(node, "Ready").and_then(|ready| parse_time(&ready["lastHeartbeatTime"])),
        parse_time(&node["metadata"]["creationTimestamp"]),
    ];
    unix_now() * 1000 - signs.into_iter().flatten().max().unwrap_or(0)
}

/// The node no longer answers: its state is unknown, its Pods do not serve.
fn give_up(access: &Access, node: &Value, pods: &[Arc<Value>]) {
    let conditions: Vec<Value> = items(&node["status"]["conditions"])
        .map(|old| {
            let mut new = old.clone();
            if old["type"] != "NetworkUnavailable" {
                new["status"] = json!("Unknown");
                new["reason"] = json!("NodeStatusUnknown");
                new["message"] = json!("Kubelet stopped posting node status.");
                new["lastTransitionTime"] = json!(now());
            }
            new
        })
        .collect();
    access.patch("nodes", node, "status", &json!({"status": {"conditions": conditions}}));
    for pod in pods.iter().filter(|pod| pod["spec"]["nodeName"] == node["metadata"]["name"]) {
        let mut conditions: Vec<Value> = items(&pod["status"]["conditions"]).cloned().collect();
        for ready in conditions.iter_mut().filter(|condition| condition["type"] == "Ready") {
            ready["status"] = json!("False");
        }
        access.patch("pods", pod, "status", &json!({"status": {"conditions": conditions}}));
    }
}

/// The administrator's taints, then those that follow from the node's state.
fn taints(node: &Value) -> Vec<Value> {
    let old: Vec<&Value> = items(&node["spec"]["taints"]).collect();
    let mut taints: Vec<Value> =
        old.iter().filter(|taint| !OWN_TAINTS.contains(&text(&taint["key"]))).map(|taint| (*taint).clone()).collect();
    let mut add = |name: &str, effect: &str| {
        let key = format!("node.kubernetes.io/{name}");
        let kept = old.iter().find(|taint| taint["key"] == key && taint["effect"] == effect);
        let timed = effect == "NoExecute" || name == "unschedulable";
        taints.push(match kept {
            Some(taint) => (*taint).clone(),
            None if timed => json!({"key": key, "effect": effect, "timeAdded": now()}),
            None => json!({"key": key, "effect": effect}),
        });
    };
    if node["spec"]["unschedulable"] == true {
        add("unschedulable", "NoSchedule");
    }
    let status = |name: &str| condition(node, name).map(|condition| text(&condition["status"]).to_string());
    let lost = match status("Ready").as_deref() {
        Some("False") => Some("not-ready"),
        Some("Unknown") => Some("unreachable"),
        _ => None,
    };
    if let Some(name) = lost {
        add(name, "NoSchedule");
        add(name, "NoExecute");
    }
    if status("NetworkUnavailable").as_deref() == Some("True") {
        add("network-unavailable", "NoSchedule");
    }
    taints
}

/// NoExecute: Pods that do not tolerate the taint go at once, those that do for a time go after it.
fn evict_intolerant(access: &Access, node: &Value, pods: &[Arc<Value>]) {
    for taint in items(&node["spec"]["taints"]).filter(|taint| taint["effect"] == "NoExecute") {
        let age = parse_time(&taint["timeAdded"]).map_or(0, |since| unix_now() - since / 1000);
        for pod in pods.iter().filter(|pod| pod["spec"]["nodeName"] == node["metadata"]["name"] && is_active(pod)) {
            let mirror = !pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null();
            let stays = items(&pod["spec"]["tolerations"])
                .filter(|toleration| covers(toleration, taint))
                .any(|toleration| toleration["tolerationSeconds"].as_i64().is_none_or(|seconds| age < seconds));
            if !mirror && !stays {
                access.delete("pods", pod, None);
            }
        }
    }
}

/// Bound, for some seconds, to a node that does not exist.
fn is_orphan(pod: &Value, nodes: &[Arc<Value>]) -> bool {
    let node = text(&pod["spec"]["nodeName"]);
    let age = unix_now() - parse_time(&pod["metadata"]["creationTimestamp"]).unwrap_or(0) / 1000;
    age >= 5 && !node.is_empty() && !nodes.iter().any(|other| other["metadata"]["name"] == node)
}
