//! What prepare, abort and finish come to, from every state that a broken-off run can leave.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "cluster_support/mod.rs"]
mod support;

use nodectl::cluster::facts::ClusterFacts;
use nodectl::cluster::object::{find, text};
use nodectl::cluster::request::Request;
use nodectl::cluster::{abort, finish, prepare};
use serde_json::{Value, json};
use support::{Decide, apply, canal, converge, fresh, now, refusals, request, roll, same, switch};

fn prepared() -> ClusterFacts {
    let mut facts = fresh();
    converge(&mut facts, prepare::decide, &request());
    facts
}

/// Facts without what depends on the way that led to them.
fn normal(mut facts: ClusterFacts) -> ClusterFacts {
    facts.ipam_blocks.sort_by_key(|b| b["metadata"]["name"].to_string());
    facts.block_affinities.sort_by_key(|b| b["metadata"]["name"].to_string());
    facts.ipam_handles.sort_by_key(|b| b["metadata"]["name"].to_string());
    facts
}

/// Breaks `decide` off after every number of writes, then runs it to its end: it always ends the same.
fn every_prefix_converges(start: &ClusterFacts, decide: Decide, request: &Request) {
    let mut whole = start.clone();
    converge(&mut whole, decide, request);
    let mut reached = start.clone();
    for writes in 0.. {
        let mut again = reached.clone();
        roll(&mut again);
        converge(&mut again, decide, request);
        same(&normal(again), &normal(whole.clone()), &format!("broken off after {writes} writes"));
        let decision = decide(&reached, request);
        match decision.ready().first() {
            Some(change) => apply(&mut reached, change),
            None if decision.changes.is_empty() => return,
            None => roll(&mut reached),
        }
    }
}

#[test]
fn prepare_twice_changes_nothing() {
    let facts = prepared();
    let again = prepare::decide(&facts, &request());
    assert_eq!(again.changes, Vec::new());
    assert_eq!(again.pending, Vec::<String>::new());
}

#[test]
fn an_old_preparation_is_confirmed_once_a_day() {
    let facts = prepared();
    let at =
        |time: &str| Request { now: nodectl::cluster::request::Now { rfc3339: time.to_owned(), ..now() }, ..request() };
    assert!(prepare::decide(&facts, &at("2026-11-21T23:00:00Z")).changes.is_empty());
    let later = prepare::decide(&facts, &at("2026-11-22T03:00:00Z"));
    let fields: Vec<String> = later.changes.iter().flat_map(|c| c.fields()).map(|f| f.field).collect();
    assert_eq!(fields, ["metadata.annotations.nodectl.io/prepared", "metadata.annotations.nodectl.io/prepared"]);
}

#[test]
fn prepare_broken_off_anywhere_goes_on() {
    every_prefix_converges(&fresh(), prepare::decide, &request());
}

#[test]
fn abort_puts_everything_back() {
    let mut facts = prepared();
    converge(&mut facts, abort::decide, &request());
    same(&facts, &fresh(), "after abort");
    assert!(abort::decide(&facts, &request()).changes.is_empty());
}

#[test]
fn abort_puts_a_prepare_back_that_was_broken_off() {
    let mut reached = fresh();
    loop {
        let mut back = reached.clone();
        roll(&mut back);
        converge(&mut back, abort::decide, &request());
        same(&back, &fresh(), "after abort");
        let decision = prepare::decide(&reached, &request());
        match decision.ready().first() {
            Some(change) => apply(&mut reached, change),
            None => break,
        }
    }
}

#[test]
fn abort_broken_off_anywhere_goes_on() {
    every_prefix_converges(&prepared(), abort::decide, &request());
}

/// The pool is not there a moment while a felix of Canal's would take to it: neither on the way there nor on the way back.
#[test]
fn canals_felix_never_meets_a_pool_for_vxlan() {
    for cidr in ["10.244.0.0/16", "192.168.0.0/16"] {
        let mut start = canal();
        start.ip_pools[0]["spec"]["cidr"] = json!(cidr);
        there_and_back_on_canal(&start);
    }
}

fn there_and_back_on_canal(start: &ClusterFacts) {
    let carries = |pool: &Value| pool["spec"]["vxlanMode"] == "Always";
    let safe = |facts: &ClusterFacts| {
        !facts.ip_pools.iter().any(carries) || facts.pods.iter().all(|pod| pod.leaves_vxlan_alone)
    };
    let mut facts = start.clone();
    for (decide, carried) in [(prepare::decide as Decide, true), (abort::decide, false)] {
        let mut ended = false;
        for _ in 0..200 {
            let decision = decide(&facts, &request());
            assert!(!decision.is_refused(), "{:?}", refusals(&decision));
            match decision.ready().first() {
                Some(change) => apply(&mut facts, change),
                None if decision.changes.is_empty() => {
                    ended = true;
                    break;
                }
                // The pods are replaced while nothing else can be done.
                None => roll(&mut facts),
            }
            assert!(safe(&facts), "{:?}", facts.ip_pools);
        }
        assert!(ended);
        roll(&mut facts);
        assert!(safe(&facts));
        let given = |pool: &&Value| pool["spec"]["disabled"] != true;
        let given: Vec<&Value> = facts.ip_pools.iter().filter(given).collect();
        assert_eq!(given.len(), 1, "{given:?}");
        assert_eq!(carries(given[0]) && given[0]["spec"]["cidr"] == "10.244.0.0/16", carried, "{given:?}");
    }
    same(&facts, start, "after abort");
}

#[test]
fn prepare_and_abort_of_canal_broken_off_anywhere_go_on() {
    let mut facts = canal();
    every_prefix_converges(&facts, prepare::decide, &request());
    converge(&mut facts, prepare::decide, &request());
    assert!(prepare::decide(&facts, &request()).changes.is_empty());
    every_prefix_converges(&facts, abort::decide, &request());
    converge(&mut facts, abort::decide, &request());
    same(&facts, &canal(), "after abort");
}

/// Somebody had set the variable himself: abort gives his value back.
#[test]
fn abort_gives_canals_felix_back_what_it_was_told() {
    for value in ["true", "false"] {
        let mut before = canal();
        let set = before.daemon_sets.iter_mut().find(|d| d["metadata"]["name"] == "canal").unwrap();
        let env = set.pointer_mut("/spec/template/spec/containers/0/env").and_then(Value::as_array_mut).unwrap();
        env.push(json!({"name": "FELIX_VXLANENABLED", "value": value}));
        roll(&mut before);
        let mut facts = before.clone();
        converge(&mut facts, prepare::decide, &request());
        assert!(facts.pods.iter().all(|pod| pod.leaves_vxlan_alone));
        converge(&mut facts, abort::decide, &request());
        same(&facts, &before, "after abort");
    }
}

#[test]
fn abort_gives_back_what_was_there_before() {
    let mut before = fresh();
    before.felix_configurations = vec![json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "FelixConfiguration",
        "metadata": {"name": "default"}, "spec": {"vxlanVNI": 4096, "vxlanEnabled": false, "logSeverityScreen": "Info"}})];
    before.ip_pools =
        vec![json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": {"name": "pods"},
        "spec": {"cidr": "10.244.0.0/16", "vxlanMode": "Always", "blockSize": 26, "natOutgoing": false}})];
    before.ipam_configs =
        vec![json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMConfig", "metadata": {"name": "default"},
        "spec": {"strictAffinity": false, "autoAllocateBlocks": true, "maxBlocksPerHost": 4}})];
    before.nodes[0]["metadata"]["annotations"]["projectcalico.org/IPv4Address"] = json!("10.9.9.9/24");
    before.nodes[0]["metadata"]["labels"]["projectcalico.org/node-network-during-migration"] = json!("none");
    before.daemon_sets[0]["spec"]["template"]["spec"]["nodeSelector"] = json!({"pool": "a"});
    for pod in &mut before.pods {
        pod.node_selector = [("pool".to_owned(), "a".to_owned())].into();
    }
    let mut facts = before.clone();
    converge(&mut facts, prepare::decide, &request());
    assert_eq!(text(&facts.nodes[0], "/metadata/annotations/projectcalico.org~1IPv4Address"), Some("192.168.77.1/32"));
    assert_eq!(facts.felix_configurations[0]["spec"].get("vxlanEnabled"), None);
    converge(&mut facts, abort::decide, &request());
    same(&facts, &before, "after abort");
}

#[test]
fn abort_leaves_alone_what_others_put_into_the_same_objects() {
    let mut facts = prepared();
    facts.felix_configurations[0]["spec"]["logSeverityScreen"] = json!("Debug");
    facts.daemon_sets[0]["spec"]["template"]["spec"]["nodeSelector"]["pool"] = json!("a");
    roll(&mut facts);
    converge(&mut facts, abort::decide, &request());
    assert_eq!(facts.daemon_sets[0]["spec"]["template"]["spec"]["nodeSelector"], json!({"pool": "a"}));
}

#[test]
fn abort_refuses_as_soon_as_a_node_has_left() {
    for label in ["none", "calico"] {
        let mut facts = prepared();
        facts.nodes[1]["metadata"]["labels"]["nodectl.io/cni"] = json!(label);
        let decision = abort::decide(&facts, &request());
        assert_eq!(
            refusals(&decision),
            [format!("abort-nodes: these nodes have left flannel, or are about to: node2 ({label})")]
        );
        assert!(decision.changes.is_empty());
    }
}

fn rolled() -> ClusterFacts {
    let mut facts = prepared();
    switch(&mut facts, "node1", "calico");
    switch(&mut facts, "node2", "calico");
    facts
}

#[test]
fn finish_leaves_nothing_of_flannel_or_of_ours() {
    let mut facts = rolled();
    converge(&mut facts, finish::decide, &request());
    assert!(find(&facts.daemon_sets, "kube-flannel-ds").is_none());
    assert_eq!(facts.record, None);
    assert_eq!(facts.flannel_rest.namespace, None);
    assert_eq!(facts.daemon_sets[0]["spec"]["template"]["spec"]["nodeSelector"], json!({"kubernetes.io/os": "linux"}));
    let left = serde_json::to_string(&facts).unwrap();
    for trace in ["nodectl", "node-network-during-migration", "flannel.alpha.coreos.com"] {
        assert!(!left.contains(trace), "{trace} is left in {left}");
    }
    // What Calico lives on stays.
    assert_eq!(facts.ipam_blocks.len(), 8);
    assert_eq!(
        text(&facts.nodes[0], "/metadata/annotations/projectcalico.org~1IPv4VXLANTunnelAddr"),
        Some("10.244.1.0")
    );
    assert_eq!(
        facts.ipam_handles.iter().map(|h| h["spec"]["handleID"].to_string()).collect::<Vec<_>>(),
        ["\"vxlan-tunnel-addr-node1\"", "\"vxlan-tunnel-addr-node2\""]
    );
    assert!(finish::decide(&facts, &request()).changes.is_empty());
}

#[test]
fn finish_broken_off_anywhere_goes_on() {
    every_prefix_converges(&rolled(), finish::decide, &request());
}

#[test]
fn finish_refuses_while_a_node_or_a_pod_is_on_flannel() {
    let mut facts = prepared();
    switch(&mut facts, "node1", "calico");
    let decision = finish::decide(&facts, &request());
    assert_eq!(
        refusals(&decision),
        ["finish-nodes: these nodes are not on Calico: node2 (flannel)", "finish-flannel: flannel still runs on node2"]
    );
    let mut facts = rolled();
    facts.pods[0].ready = false;
    assert_eq!(refusals(&finish::decide(&facts, &request())), ["finish-calico: calico-node is not ready on node1"]);
    // Never prepared, never switched.
    let decision = finish::decide(&fresh(), &request());
    assert_eq!(
        refusals(&decision),
        [
            "finish-prepared: this cluster was not prepared: there is no ConfigMap kube-system/nodectl-cluster, and no node has the label nodectl.io/cni",
            "finish-flannel: flannel still runs on node1 and node2",
            "finish-calico: calico-node runs on no node at all, so flannel cannot go"
        ]
    );
}

#[test]
fn finish_keeps_a_namespace_that_somebody_else_lives_in() {
    let mut facts = rolled();
    facts.flannel_rest.inhabitants.push("Deployment web".to_owned());
    let decision = finish::decide(&facts, &request());
    assert_eq!(decision.notes, ["namespace kube-flannel stays, for something else lives in it: Deployment web"]);
    assert!(decision.changes.iter().all(|c| c.target.to_string() != "Namespace kube-flannel"));
}

#[test]
fn labels_wait_until_no_pod_asks_for_them() {
    let mut facts = rolled();
    let decision = finish::decide(&facts, &request());
    let ready: Vec<String> = decision.ready().iter().map(|c| c.target.to_string()).collect();
    assert!(ready.contains(&"DaemonSet kube-system/calico-node".to_owned()));
    assert!(ready.iter().all(|t| !t.starts_with("Node ")), "{ready:?}");
    // The selector is gone from the DaemonSet, and one pod is still the old one.
    decision.ready().iter().for_each(|c| apply(&mut facts, c));
    roll(&mut facts);
    facts.pods[0].node_selector = [("nodectl.io/cni".to_owned(), "calico".to_owned())].into();
    let decision = finish::decide(&facts, &request());
    assert!(decision.ready().is_empty());
    assert_eq!(decision.waits().len(), 1, "{:?}", decision.waits());
}

#[test]
fn a_node_that_joins_is_labelled_first_and_described_when_flannel_runs_there() {
    let mut facts = prepared();
    let mut node = fresh().nodes[0].clone();
    node["metadata"]["name"] = json!("node3");
    node["metadata"]["annotations"] = json!({});
    node["spec"] = json!({});
    facts.nodes.push(node);
    let decision = prepare::decide(&facts, &request());
    assert_eq!(refusals(&decision), Vec::<String>::new());
    let written: Vec<String> = decision.changes.iter().map(|c| c.target.to_string()).collect();
    assert_eq!(written, ["Node node3"]);
    assert_eq!(
        decision.pending,
        ["node node3 has joined: flannel has to start there and to annotate it (it has no pod CIDR yet either)"]
    );
    converge(&mut facts, prepare::decide, &request());
    // flannel has come.
    facts.nodes[2]["spec"] = json!({"podCIDR": "10.244.3.0/24", "podCIDRs": ["10.244.3.0/24"]});
    let from: Value = facts.nodes[1]["metadata"]["annotations"].clone();
    for key in ["backend-data", "backend-type", "public-ip"] {
        let key = format!("flannel.alpha.coreos.com/{key}");
        facts.nodes[2]["metadata"]["annotations"][&key] = from[&key].clone();
    }
    // One handle for the overlay's address, one for the bridge's; four blocks and affinities; the annotations.
    assert_eq!(converge(&mut facts, prepare::decide, &request()), 2 + 4 + 4 + 1);
    assert_eq!(facts.ipam_blocks.len(), 12);
    assert!(prepare::decide(&facts, &request()).pending.is_empty());
}

#[test]
fn a_node_without_flannel_is_no_joining_node_before_the_selector_is_there() {
    let mut facts = fresh();
    facts.nodes[1]["metadata"]["annotations"] = json!({});
    assert_eq!(refusals(&prepare::decide(&facts, &request())).len(), 1);
}

#[test]
fn what_somebody_changed_is_put_right_and_nothing_else() {
    let mut facts = prepared();
    facts.felix_configurations[0]["spec"]["vxlanVNI"] = json!(4096);
    facts.nodes[0]["metadata"]["labels"]["projectcalico.org/node-network-during-migration"] = json!("calico");
    // calico-node writes its address with the mask of the device.
    facts.nodes[1]["metadata"]["annotations"]["projectcalico.org/IPv4Address"] = json!("192.168.77.2/24");
    let decision = prepare::decide(&facts, &request());
    let written: Vec<String> = decision.changes.iter().map(|c| c.target.to_string()).collect();
    assert_eq!(written, ["FelixConfiguration default", "Node node1"]);
}

#[test]
fn a_switched_nodes_label_is_left_alone() {
    let mut facts = prepared();
    switch(&mut facts, "node1", "calico");
    assert!(prepare::decide(&facts, &request()).changes.is_empty());
}

#[test]
fn blocks_that_calico_marked_as_deleted_are_made_anew() {
    let mut facts = prepared();
    facts.ipam_blocks[0]["spec"]["deleted"] = json!(true);
    facts.block_affinities[0]["spec"]["deleted"] = json!("true");
    facts.block_affinities[1]["spec"]["state"] = json!("pendingDeletion");
    assert_eq!(converge(&mut facts, prepare::decide, &request()), 3);
    assert_eq!(facts, {
        let mut whole = prepared();
        whole.ipam_blocks[0] = facts.ipam_blocks[0].clone();
        whole
    });
    assert_eq!(facts.ipam_blocks[0]["spec"]["deleted"], json!(false));
}

#[test]
fn a_namespace_that_takes_its_time_is_not_deleted_again() {
    let mut facts = rolled();
    facts.flannel_rest.namespace.as_mut().unwrap()["metadata"]["deletionTimestamp"] = json!("2026-11-21T02:00:00Z");
    let decision = finish::decide(&facts, &request());
    assert!(decision.changes.iter().all(|c| c.target.to_string() != "Namespace kube-flannel"));
}

#[test]
fn finish_waits_for_calico_where_it_refused_before_flannel_was_gone() {
    let mut facts = rolled();
    facts.daemon_sets.retain(|d| d["metadata"]["name"] != "kube-flannel-ds");
    facts.daemon_sets[0]["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/os": "linux"});
    roll(&mut facts);
    facts.pods[0].ready = false;
    let decision = finish::decide(&facts, &request());
    assert_eq!(refusals(&decision), Vec::<String>::new());
    assert_eq!(decision.waits(), ["calico-node to become ready on node1"]);
}
