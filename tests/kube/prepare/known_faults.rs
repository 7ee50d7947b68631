//! What today's tools for this are known to get wrong, each by its name: Calico's own flannel-migration controller, and peers.

use nodectl_lab::wait::eventually;
use serde_json::{Value, json};

use super::fixture::{Cluster, same};

const FELIX: &str = "/apis/crd.projectcalico.org/v1/felixconfigurations";
const FLANNEL: &str = "/apis/apps/v1/namespaces/kube-flannel/daemonsets/kube-flannel-ds";
const CALICO: &str = "/apis/apps/v1/namespaces/kube-system/daemonsets/calico-node";

/// The controller ends with success when it finds no flannel, an add-on manager's label, or no calico-node.
#[test]
fn success_is_never_reported_where_nothing_was_done() {
    let cluster = Cluster::start(1);
    cluster.patch(FLANNEL, &json!({"metadata": {"labels": {"addonmanager.kubernetes.io/mode": "Reconcile"}}}));
    cluster.run(&["prepare"]).exits(3);
    cluster.patch(FLANNEL, &json!({"metadata": {"labels": {"addonmanager.kubernetes.io/mode": null}}}));
    let daemon_set = cluster.admin().get(CALICO).unwrap();
    cluster.admin().delete(CALICO).unwrap();
    cluster.run(&["prepare"]).exits(3);
    let mut again = daemon_set;
    again["metadata"] = json!({"name": "calico-node", "namespace": "kube-system"});
    cluster.admin().create("/apis/apps/v1/namespaces/kube-system/daemonsets", &again).unwrap();
    cluster.admin().delete(FLANNEL).unwrap();
    cluster.run(&["prepare"]).exits(3);
    // Nor is a roll complete because nobody has begun it.
    assert_eq!(cluster.run(&["status"]).exits(2).json()["complete"], false);
    assert_eq!(cluster.run(&["finish"]).exits(3).refusals(), ["finish-prepared"]);
}

/// The controller replaces the Node's BGP specification by an empty one, and its test for a Node that is right already is never
/// true, so that every restart writes it anew.
#[test]
fn everything_else_on_the_node_stays_and_a_second_run_writes_nothing() {
    let cluster = Cluster::start(1);
    let foreign = json!({
        "projectcalico.org/ASNumber": "64512", "projectcalico.org/RouteReflectorClusterID": "244.0.0.1",
        "projectcalico.org/IPv6Address": "fd00::1/64", "projectcalico.org/IPv4IPIPTunnelAddr": "10.244.1.9",
        "projectcalico.org/BGPConfig": "x", "example.com/note": "mine"});
    cluster.patch("/api/v1/nodes/node1", &json!({"metadata": {"annotations": foreign, "labels": {"rack": "7"}}}));
    cluster.run(&["prepare"]).exits(0);
    let node = cluster.node(1);
    for (key, value) in foreign.as_object().unwrap() {
        assert_eq!(&node["metadata"]["annotations"][key], value, "{key}");
    }
    assert_eq!(node["metadata"]["labels"]["rack"], "7");
    // calico-node writes the address with the mask of the device, and runs on the node meanwhile.
    cluster.switch(1, "calico");
    let found = json!({"metadata": {"annotations": {"projectcalico.org/IPv4Address": "192.168.77.1/24"}}});
    cluster.patch("/api/v1/nodes/node1", &found);
    cluster.settle();
    let before = cluster.dump();
    assert_eq!(cluster.run(&["prepare"]).exits(0).json()["changed"], false);
    same(&cluster.dump(), &before);
}

/// The controller sets vxlanEnabled=false at every start, which takes the overlay off every node that is on Calico already; and
/// it makes a FelixConfiguration with a pool's name when there is none.
#[test]
fn vxlan_is_never_switched_off() {
    let cluster = Cluster::start(2);
    let values = std::sync::Mutex::new(Vec::<Value>::new());
    let stopped = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                for config in cluster.admin().list(FELIX).unwrap_or_default() {
                    values.lock().unwrap().push(json!([config["metadata"]["name"], config["spec"]["vxlanEnabled"]]));
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        });
        cluster.run(&["prepare"]).exits(0);
        cluster.switch(1, "calico");
        cluster.run(&["prepare"]).exits(0);
        cluster.patch(&format!("{FELIX}/default"), &json!({"spec": {"vxlanPort": 4789}}));
        cluster.run(&["prepare"]).exits(0);
        stopped.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let values = values.into_inner().unwrap();
    assert!(!values.is_empty());
    assert!(values.iter().all(|v| *v == json!(["default", null])), "{values:?}");
    // A cluster that uses VXLAN already says so, and goes on.
    cluster.patch(&format!("{FELIX}/default"), &json!({"spec": {"vxlanEnabled": true}}));
    cluster.run(&["prepare"]).exits(0);
    assert_eq!(cluster.admin().get(&format!("{FELIX}/default")).unwrap()["spec"]["vxlanEnabled"], true);
}

/// The controller knows two of the control plane's three labels, and takes its nodes in the order of their names.
#[test]
fn every_label_of_the_control_plane_is_known() {
    let cluster = Cluster::start(4);
    for (index, role) in [(1, "master"), (2, "controlplane"), (3, "control-plane")] {
        let label = format!("node-role.kubernetes.io/{role}");
        cluster.patch(&format!("/api/v1/nodes/node{index}"), &json!({"metadata": {"labels": {label: ""}}}));
    }
    let shown = cluster.run(&["prepare", "--dry-run"]).exits(0).json();
    let order: Vec<&str> = shown["fleet"].as_array().unwrap().iter().map(|row| row["node"].as_str().unwrap()).collect();
    assert_eq!(order, ["node4", "node1", "node2", "node3"]);
}

/// The controller takes a block that somebody else holds for claimed.
#[test]
fn a_claim_that_fails_is_an_error() {
    let cluster = Cluster::start(1);
    let block = json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMBlock", "metadata": {"name": "10-244-1-128-26"},
        "spec": {"cidr": "10.244.1.128/26", "affinity": "host:elsewhere", "allocations": [], "unallocated": [],
            "attributes": [], "strictAffinity": false}});
    cluster.admin().create("/apis/crd.projectcalico.org/v1/ipamblocks", &block).unwrap();
    let refused = cluster.run(&["prepare"]).exits(3);
    assert_eq!(refused.refusals(), ["node-blocks"]);
    assert!(refused.stdout.contains("10.244.1.128/26"), "{}", refused.stdout);
}

/// Killed between the deletion of flannel's DaemonSet and the rest, the controller finds "no migration needed" for ever: labels
/// and node selectors stay, and nodes that join get no network.
#[test]
fn a_finish_that_lost_its_daemonset_is_finished_by_the_next() {
    let cluster = Cluster::start(1);
    cluster.run(&["prepare"]).exits(0);
    cluster.switch(1, "calico");
    cluster.admin().delete(FLANNEL).unwrap();
    cluster.run(&["finish"]).exits(0);
    let labels = &cluster.node(1)["metadata"]["labels"];
    assert!(labels.get("nodectl.io/cni").is_none(), "{labels}");
    assert!(labels.get("projectcalico.org/node-network-during-migration").is_none(), "{labels}");
    let selector = &cluster.admin().get(CALICO).unwrap()["spec"]["template"]["spec"]["nodeSelector"];
    assert_eq!(selector, &json!({"kubernetes.io/os": "linux"}));
    cluster.join(2);
    eventually("the new node gets calico-node", || cluster.run(&["status"]).json()["on"] == "calico");
}

/// The controller's roll-back deletes Calico's definitions, and all policies and addresses with them, and replaces flannel's whole
/// node selector.
#[test]
fn abort_takes_away_its_own_and_nothing_else() {
    let cluster = Cluster::start(1);
    cluster.patch("/api/v1/nodes/node1", &json!({"metadata": {"labels": {"pool": "a"}}}));
    cluster.patch(FLANNEL, &json!({"spec": {"template": {"spec": {"nodeSelector": {"pool": "a"}}}}}));
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "keep", "namespace": "default"}, "spec": {"podSelector": {}}});
    cluster.admin().create("/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", &policy).unwrap();
    cluster.settle();
    let before = cluster.dump();
    cluster.run(&["prepare", "--accept-policy-change"]).exits(0);
    cluster.run(&["abort"]).exits(0);
    same(&cluster.dump(), &before);
}
