//! Runs that nobody disturbs.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nodectl::prepared::Prepared;
use nodectl_lab::wait::eventually;
use serde_json::json;

use super::fixture::{Cluster, same};

const CALICO: &str = "/apis/crd.projectcalico.org/v1";

#[test]
fn a_fresh_cluster_is_prepared_once_and_for_all() {
    let cluster = Cluster::start(2);
    assert_eq!(cluster.run(&["status"]).exits(2).json()["on"], "flannel");
    let first = cluster.run(&["prepare"]).exits(0).json();
    assert_eq!(first["changed"], true);
    assert_eq!(first["schema_version"], 1);
    assert_eq!(first["pending"], json!([]), "flannel's pods were replaced meanwhile");

    let node = cluster.node(1);
    let annotations = &node["metadata"]["annotations"];
    assert_eq!(annotations["projectcalico.org/IPv4Address"], "192.168.77.1/32");
    assert_eq!(annotations["projectcalico.org/IPv4VXLANTunnelAddr"], "10.244.1.0");
    assert_eq!(annotations["projectcalico.org/VXLANTunnelMACAddr"], "0e:00:00:00:00:01");
    let prepared = Prepared::parse(annotations["nodectl.io/prepared"].as_str().unwrap()).unwrap();
    assert_eq!((prepared.vni, prepared.port, prepared.mtu, prepared.masquerade), (1, 8472, 1450, true));
    assert_eq!(prepared.flannel.conflist, "10-flannel.conflist");
    assert_eq!(prepared.calico.route_metric, Some(0));
    assert_eq!(prepared.probe.service, "10.96.0.1:443");
    assert_eq!(prepared.prepared_by, "kubernetes-admin");
    assert_eq!(cluster.admin().list(&format!("{CALICO}/ipamblocks")).unwrap().len(), 8);

    let before = cluster.dump();
    let second = cluster.run(&["prepare"]).exits(0).json();
    assert_eq!((&second["changed"], &second["changes"]), (&json!(false), &json!([])));
    same(&cluster.dump(), &before);
    let status = cluster.run(&["status", "--to", "flannel"]).exits(0).json();
    assert_eq!(status["nodes"][0]["prepared"], "yes");
}

#[test]
fn a_dry_run_writes_nothing_and_says_what_a_run_would() {
    let cluster = Cluster::start(1);
    cluster.settle();
    let before = cluster.dump();
    let shown = cluster.run(&["prepare", "--dry-run"]).exits(0).json();
    cluster.run(&["prepare", "--dry-run", "--detailed-exitcode"]).exits(2);
    assert_eq!(shown["changed"], false);
    same(&cluster.dump(), &before);
    assert_eq!(std::fs::read_dir(cluster.fixture.path("backup")).unwrap().count(), 0);
    let written = cluster.run(&["prepare"]).exits(0).json();
    let objects = |run: &serde_json::Value| {
        run["changes"].as_array().unwrap().iter().map(|c| c["object"].to_string()).collect::<Vec<_>>()
    };
    assert_eq!(objects(&shown), objects(&written));
    cluster.run(&["prepare", "--dry-run", "--detailed-exitcode"]).exits(0);
}

#[test]
fn every_object_is_saved_before_it_is_changed() {
    let cluster = Cluster::start(1);
    let run = cluster.run(&["prepare"]).exits(0).json();
    let path = run["backups"][0].as_str().unwrap();
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    let backup: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let kinds: Vec<&str> = backup["objects"].as_array().unwrap().iter().map(|o| o["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["Node", "DaemonSet"]);
    assert!(backup["objects"][0]["metadata"]["labels"].get("nodectl.io/cni").is_none(), "as it was before");
    assert!(backup["created"].as_array().unwrap().contains(&json!("IPPool default-ipv4-ippool")));

    // Where nothing can be saved, nothing is changed.
    let other = Cluster::start(1);
    std::fs::write(other.fixture.path("file"), "").unwrap();
    let before = other.dump();
    let directory = other.fixture.path("file/backup");
    let failed = other.run(&["prepare", "--backup-dir", directory.to_str().unwrap()]).exits(1);
    assert!(failed.stderr.contains("--backup-dir"), "{}", failed.stderr);
    same(&other.dump(), &before);
}

#[test]
fn a_node_that_joins_is_taken_in_by_one_more_run() {
    let cluster = Cluster::start(1);
    cluster.run(&["prepare"]).exits(0);
    cluster.join(2);
    // Without a label no agent runs there; prepare labels it, waits for flannel, and describes it.
    let run = cluster.run(&["prepare"]).exits(0).json();
    assert_eq!(run["pending"], json!([]));
    assert!(cluster.node(2)["metadata"]["annotations"]["nodectl.io/prepared"].is_string());
    assert_eq!(cluster.admin().list(&format!("{CALICO}/blockaffinities")).unwrap().len(), 8);
}

#[test]
fn a_node_that_flannel_never_comes_to_is_owed() {
    let cluster = Cluster::start(1);
    cluster.run(&["prepare"]).exits(0);
    cluster.join(9);
    cluster.patch(
        "/api/v1/nodes/node9",
        &json!({"metadata": {"labels": {"nodectl.io/cni": "flannel"}},
        "spec": {"taints": [{"key": "x", "effect": "NoExecute"}]}}),
    );
    let run = cluster.run(&["prepare", "--wait", "1"]).exits(5).json();
    assert!(run["pending"][0].as_str().unwrap().contains("node9"), "{run}");
}

#[test]
fn drift_is_put_right() {
    let cluster = Cluster::start(2);
    cluster.run(&["prepare"]).exits(0);
    let before = cluster.dump();
    cluster.patch(&format!("{CALICO}/felixconfigurations/default"), &json!({"spec": {"vxlanPort": 4789}}));
    cluster.patch(
        "/api/v1/nodes/node2",
        &json!({"metadata": {"annotations": {"projectcalico.org/VXLANTunnelMACAddr": null}}}),
    );
    cluster.admin().delete(&format!("{CALICO}/blockaffinities/node1-10-244-1-64-26")).unwrap();
    let run = cluster.run(&["prepare"]).exits(0).json();
    assert_eq!(run["changes"].as_array().unwrap().len(), 3, "{run}");
    same(&cluster.dump(), &before);
}

#[test]
fn the_garbage_collector_leaves_blocks_and_reserved_addresses_alone() {
    let cluster = Cluster::with(2, |options| options.controllers.ipam_gc_grace_ms = Duration::from_millis(20));
    cluster.run(&["prepare"]).exits(0);
    cluster.switch(1, "calico");
    let collect = || {
        for _ in 0..3 {
            assert_eq!(cluster.fixture.server.control.run("gc"), "ok");
            std::thread::sleep(Duration::from_millis(30));
        }
    };
    let before = cluster.dump();
    collect();
    same(&cluster.dump(), &before);
    // The label is what holds the spare blocks, and the attributes hold the reserved addresses even without it.
    cluster.patch(
        "/api/v1/nodes/node1",
        &json!({"metadata": {"labels": {"projectcalico.org/node-network-during-migration": "calico"}}}),
    );
    collect();
    let left: Vec<String> = cluster
        .admin()
        .list(&format!("{CALICO}/ipamblocks"))
        .unwrap()
        .iter()
        .map(|b| b["metadata"]["name"].as_str().unwrap().to_owned())
        .filter(|name| name.starts_with("10-244-1-"))
        .collect();
    assert_eq!(left, ["10-244-1-0-26", "10-244-1-192-26"]);
    // prepare puts it right.
    cluster.run(&["prepare"]).exits(0);
    assert_eq!(cluster.admin().list(&format!("{CALICO}/ipamblocks")).unwrap().len(), 8);
}

#[test]
fn abort_puts_the_cluster_back_as_it_was() {
    let cluster = Cluster::start(2);
    cluster.settle();
    let before = cluster.dump();
    cluster.run(&["prepare"]).exits(0);
    cluster.label(1, "none");
    cluster.run(&["abort"]).exits(3);
    cluster.label(1, "flannel");
    assert_eq!(cluster.run(&["abort"]).exits(0).json()["changed"], true);
    same(&cluster.dump(), &before);
    assert_eq!(cluster.run(&["abort"]).exits(0).json()["changed"], false);
    // And forth again.
    cluster.run(&["prepare"]).exits(0);
}

#[test]
fn finish_ends_flannel_when_no_node_needs_it() {
    let cluster = Cluster::start(2);
    cluster.run(&["prepare"]).exits(0);
    cluster.switch(1, "calico");
    let refused = cluster.run(&["finish"]).exits(3);
    assert_eq!(refused.refusals(), ["finish-nodes", "finish-flannel"]);
    cluster.switch(2, "calico");
    let kept = cluster.dump();
    cluster.run(&["finish", "--dry-run"]).exits(0);
    same(&cluster.dump(), &kept);
    cluster.run(&["finish"]).exits(0);
    eventually("flannel's namespace is gone", || {
        cluster.admin().find("/api/v1/namespaces/kube-flannel").unwrap().is_none()
    });
    let dump = cluster.dump();
    for trace in ["nodectl", "node-network-during-migration", "flannel.alpha.coreos.com", "kube-flannel"] {
        let left: Vec<&String> = dump.iter().filter(|line| line.contains(trace)).collect();
        assert!(left.is_empty(), "{trace}: {left:?}");
    }
    assert_eq!(cluster.run(&["finish"]).exits(0).json()["changed"], false);
    // A node that joins now runs Calico without anybody's help.
    cluster.join(3);
    eventually("calico-node starts on the new node", || {
        let pods = cluster.admin().list("/api/v1/namespaces/kube-system/pods").unwrap();
        pods.iter().any(|p| p["spec"]["nodeName"] == "node3" && p["metadata"]["labels"]["k8s-app"] == "calico-node")
    });
    eventually("the new node is on Calico", || cluster.run(&["status"]).json()["on"] == "calico");
}

/// Kinds of the rarer sort, and custom ones: with the namespace they would go.
#[test]
fn flannels_namespace_stays_for_whoever_lives_in_it() {
    let cluster = Cluster::rolled(1);
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    cluster.admin().create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).unwrap();
    for (version, plural, kind) in [
        ("coordination.k8s.io/v1", "leases", "Lease"),
        ("rbac.authorization.k8s.io/v1", "roles", "Role"),
        ("example.com/v1", "widgets", "Widget"),
    ] {
        let object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "theirs"}});
        let path = format!("/apis/{version}/namespaces/kube-flannel/{plural}");
        // A real server serves a new kind a moment later.
        eventually("the object is made", || cluster.admin().create(&path, &object).is_ok());
        let note = json!([format!("namespace kube-flannel stays, for something else lives in it: {kind} theirs")]);
        eventually("the object is found", || cluster.run(&["finish", "--dry-run"]).exits(0).json()["notes"] == note);
        cluster.admin().delete(&format!("{path}/theirs")).unwrap();
    }
    assert_eq!(cluster.run(&["finish", "--dry-run"]).exits(0).json()["notes"], json!([]));
}
