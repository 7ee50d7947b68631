//! A roll with a pace: who may begin, who waits, and the control plane last.

use serde_json::{Value, json};

use super::fixture::{Cluster, same};

fn pace(cluster: &Cluster, index: u8) -> Value {
    cluster.node(index)["metadata"]["annotations"]["nodectl.io/pace"].clone()
}

fn paces(cluster: &Cluster) -> Vec<Value> {
    cluster.run(&["status"]).json()["nodes"].as_array().unwrap().iter().map(|n| n["pace"].clone()).collect()
}

#[test]
fn nodes_begin_when_they_are_allowed_and_the_roll_stops_when_it_is_paused() {
    let cluster = Cluster::start(3);
    cluster.settle();
    let before = cluster.dump();
    // Nobody is asked to wait unless somebody says so.
    cluster.run(&["prepare"]).exits(0);
    assert_eq!(paces(&cluster), ["", "", ""]);
    cluster.run(&["prepare", "--pace"]).exits(0);
    assert_eq!(paces(&cluster), ["wait", "wait", "wait"]);
    let allowed = cluster.run(&["allow", "node1", "node2"]).exits(0).json();
    assert_eq!((&allowed["changed"], allowed["changes"].as_array().unwrap().len()), (&json!(true), 2));
    assert_eq!(cluster.run(&["allow", "node1", "node2"]).exits(0).json()["changed"], false);
    assert_eq!(paces(&cluster), ["allowed", "allowed", "wait"]);
    // One has ended, one is in the middle, and the others stop.
    cluster.switch(1, "calico");
    cluster.label(2, "none");
    let paused = cluster.run(&["pause"]).exits(0).json();
    assert_eq!(paused["notes"], json!(["in the middle of its switch, and not stopped by this: node2"]));
    assert_eq!(paces(&cluster), ["allowed", "allowed", "wait"]);
    cluster.label(2, "flannel");
    cluster.run(&["pause", "node2"]).exits(0);
    assert_eq!(paces(&cluster), ["allowed", "wait", "wait"]);
    cluster.run(&["allow", "--all"]).exits(0);
    assert_eq!(paces(&cluster), ["allowed", "allowed", "allowed"]);
    assert_eq!(cluster.run(&["allow", "node9"]).exits(3).refusals(), ["nodes-known"]);
    // A node that joins a roll with a pace waits too.
    cluster.join(4);
    cluster.run(&["prepare"]).exits(0);
    assert_eq!(pace(&cluster, 4), "wait");
    cluster.admin().delete("/api/v1/nodes/node4").unwrap();
    cluster.switch(1, "flannel");
    cluster.run(&["abort"]).exits(0);
    let left: Vec<String> = cluster.dump().into_iter().filter(|line| !line.contains("node4")).collect();
    same(&left, &before);
}

#[test]
fn a_node_that_is_not_prepared_cannot_be_allowed() {
    let cluster = Cluster::start(1);
    assert_eq!(cluster.run(&["allow", "node1"]).exits(3).refusals(), ["nodes-prepared"]);
    assert_eq!(cluster.run(&["pause"]).exits(0).json()["changed"], false);
    assert_eq!(pace(&cluster, 1), Value::Null);
}

#[test]
fn the_control_plane_comes_last_one_node_at_a_time_while_it_is_well() {
    let cluster = Cluster::start(4);
    let labels = [
        "node-role.kubernetes.io/control-plane",
        "node-role.kubernetes.io/master",
        "node-role.kubernetes.io/controlplane",
    ];
    for (index, label) in (1..).zip(labels) {
        cluster.patch(&format!("/api/v1/nodes/node{index}"), &json!({"metadata": {"labels": {label: ""}}}));
    }
    cluster.run(&["prepare", "--pace"]).exits(0);
    assert_eq!(cluster.run(&["allow", "node1"]).exits(3).refusals(), ["control-plane-last"]);
    let all = cluster.run(&["allow", "--all"]).exits(0).json();
    assert!(all["notes"][0].as_str().unwrap().ends_with("node1, node2 and node3"), "{all}");
    assert_eq!(paces(&cluster), ["wait", "wait", "wait", "allowed"]);
    cluster.switch(4, "calico");
    assert_eq!(cluster.run(&["allow", "node1", "node2"]).exits(3).refusals(), ["control-plane-one"]);
    cluster.run(&["allow", "node1"]).exits(0);
    assert_eq!(cluster.run(&["allow", "node2"]).exits(3).refusals(), ["control-plane-one"]);
    cluster.switch(1, "calico");
    let ready = |status: &str| json!({"status": {"conditions": [{"type": "Ready", "status": status, "reason": "KubeletReady"}]}});
    let patch = |status: &str| {
        let patch = nodectl_lab::client::Patch::Strategic;
        cluster.admin().patch("/api/v1/nodes/node3/status", patch, &ready(status)).unwrap();
    };
    patch("False");
    assert_eq!(cluster.run(&["allow", "node2"]).exits(3).refusals(), ["control-plane-quorum"]);
    cluster.run(&["allow", "node2", "--force", "--dry-run"]).exits(0);
    patch("True");
    cluster.run(&["allow", "node2"]).exits(0);
}
