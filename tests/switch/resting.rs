//! The resting state: a cluster of which one node is on Calico and the others on flannel, for as long as it takes; nodes reboot,
//! agents restart, pods come and go, a node joins, Calico's garbage collector runs.

use std::time::Duration;

use nodectl_lab::apiserver::value::is_true;
use nodectl_lab::client::Patch;
use nodectl_lab::cluster::until;
use nodectl_lab::objects::workloads;
use nodectl_lab::scenario::{Cni, Off, PATIENCE, Scenario};
use nodectl_lab::traffic::Traffic;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

/// node1 on Calico, node2 on flannel; the garbage collector has no patience at all.
fn resting() -> Scenario {
    let scenario = Scenario::start(2, &Scenario::workloads(4), |options| {
        options.api_arguments.extend(["--ipam-gc-grace-ms", "0"].map(str::to_owned));
        options.files.push(("/etc/kubernetes/manifests/fixed.json".into(), workloads::static_pod("fixed")));
    })
    .unwrap();
    scenario.prepare().unwrap();
    scenario.migrate(1, Cni::Calico).unwrap();
    at_rest(&scenario, "after the first node's switch");
    scenario
}

/// node1 on Calico, all others on flannel, traffic whole, nothing left of pods that are gone, no block in other hands after the
/// garbage collector has run.
fn at_rest(scenario: &Scenario, case: &str) {
    scenario.complete().unwrap_or_else(|e| panic!("{case}: {e:#}"));
    for node in scenario.cluster.nodes() {
        let index = usize::from(node.index());
        let cni = if index == 1 { Cni::Calico } else { Cni::Flannel };
        scenario.must_be_on(index, cni).unwrap_or_else(|e| panic!("{case}: {e:#}"));
    }
    let blocks = scenario.blocks().unwrap();
    scenario.must_leave_nothing().unwrap_or_else(|e| panic!("{case}: {e:#}"));
    for _ in 0..3 {
        scenario.cluster.api().unwrap().control("gc").unwrap();
    }
    assert_eq!(scenario.blocks().unwrap(), blocks, "{case}: the garbage collector gave blocks away");
    let pairs = scenario.must_be_whole().unwrap_or_else(|e| panic!("{case}: {e:#}"));
    println!("{case}: {pairs} pairs of pods reach each other, {} blocks", blocks.len());
}

fn scale(scenario: &Scenario, name: &str, replicas: u32) {
    let path = format!("/apis/apps/v1/namespaces/default/deployments/{name}");
    scenario.client.patch(&path, Patch::Merge, &json!({"spec": {"replicas": replicas}})).unwrap();
    until(LIMIT, || {
        let pods = scenario.pods()?;
        let count = pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == name).count();
        Ok((count != usize::try_from(replicas)?).then(|| format!("{count} pods of {name}, wanted {replicas}")))
    })
    .unwrap();
}

#[test]
fn nodes_reboot() {
    let scenario = resting();
    let blocks = scenario.blocks().unwrap();
    for (index, word) in [(1, "switched"), (2, "unswitched")] {
        scenario.boot_anew(index, Off::Orderly).unwrap();
        at_rest(&scenario, &format!("the {word} node has rebooted"));
        scenario.boot_anew(index, Off::PowerCut).unwrap();
        at_rest(&scenario, &format!("the {word} node's power was cut"));
        assert_eq!(scenario.blocks().unwrap(), blocks);
    }
    // What was switched can be taken back after all that, once the control plane has heard of its kubelet again.
    until(PATIENCE, || {
        let node = scenario.node_object(1)?;
        Ok((!is_true(&node, "Ready")).then(|| format!("node1 is not ready: {}", node["status"]["conditions"])))
    })
    .unwrap();
    scenario.nodectl(1, &["revert", "--yes"]).unwrap().expect(0).unwrap();
    scenario.must_be_on(1, Cni::Flannel).unwrap();
    scenario.settled().unwrap();
    scenario.must_be_whole().unwrap();
}

/// A restart of an agent's container, of its pod, of kubelet and of the runtime costs no packet between pods.
#[test]
fn agents_restart() {
    let scenario = resting();
    let traffic = Traffic::start(&scenario.cluster, &scenario.pairs_between_nodes().unwrap(), 50).unwrap();
    for (index, namespace, container) in [(1, "kube-system", "calico-node"), (2, "kube-flannel", "kube-flannel")] {
        kill_container(&scenario, index, container);
        at_rest(&scenario, &format!("the container {container} was restarted"));
        delete_agent(&scenario, namespace, index);
        at_rest(&scenario, &format!("the pod of {container} was replaced"));
        for unit in ["containerd.service", "kubelet.service"] {
            scenario.node(index).unwrap().restart_unit(unit).unwrap();
        }
        at_rest(&scenario, &format!("node{index}'s runtime and kubelet were restarted"));
    }
    for flow in traffic.finish() {
        assert!(flow.longest_gap < Duration::from_secs(1) && flow.lost * 50 < flow.sent, "{flow}");
    }
}

/// Stops an agent's container behind kubelet's back, and waits for the next one.
fn kill_container(scenario: &Scenario, index: usize, name: &str) {
    let cri = scenario.node(index).unwrap().cri().unwrap();
    let running = || {
        let all = cri.list_containers().unwrap();
        let mine =
            |c: &&nodectl_lab::cri::Container| c.metadata.as_ref().is_some_and(|m| m.name == name) && c.state == 1;
        all.iter().find(mine).map(|c| c.id.clone())
    };
    let old = running().unwrap();
    cri.stop_container(&old, 1).unwrap();
    until(LIMIT, || Ok(running().is_none_or(|id| id == old).then(|| format!("{name} is not back")))).unwrap();
}

/// Deletes an agent's pod; its DaemonSet brings another.
fn delete_agent(scenario: &Scenario, namespace: &str, index: usize) {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let node = format!("node{index}");
    let here = || scenario.client.list(&path).unwrap().into_iter().find(|pod| pod["spec"]["nodeName"] == node.as_str());
    let old = here().unwrap();
    scenario.client.delete(&format!("{path}/{}", old["metadata"]["name"].as_str().unwrap())).unwrap();
    until(LIMIT, || {
        let new = here().filter(|pod| pod["metadata"]["uid"] != old["metadata"]["uid"]);
        Ok(new.is_none().then(|| format!("no new pod of {namespace} on {node}")))
    })
    .unwrap();
}

/// Pods come and go on both kinds of node; then a node joins, is prepared, and is switched like any other.
#[test]
fn pods_come_and_go_and_a_node_joins() {
    let mut scenario = resting();
    let blocks = scenario.blocks().unwrap();
    for replicas in [16, 1, 8] {
        scale(&scenario, "web", replicas);
        at_rest(&scenario, &format!("{replicas} pods of a Deployment"));
        assert_eq!(scenario.blocks().unwrap(), blocks);
    }
    scenario.cluster.add_node().unwrap();
    // Not prepared, it has no label that any agent selects on.
    let waiting = scenario.nodectl(3, &["migrate", "--to", "calico", "--yes"]).unwrap();
    assert_ne!(waiting.code, 0, "{}", waiting.all());
    scenario.prepare().unwrap();
    scenario.cluster.wait_nodes_ready(LIMIT).unwrap();
    at_rest(&scenario, "a node has joined");
    let wider = scenario.blocks().unwrap();
    assert!(blocks.iter().all(|block| wider.contains(block)), "blocks changed hands: {wider:?}");
    assert!(wider.iter().any(|(_, owner)| owner == "host:node3"), "the new node has no blocks: {wider:?}");
    scale(&scenario, "web", 14);
    at_rest(&scenario, "pods on the new node");
    scenario.migrate(3, Cni::Calico).unwrap();
    scenario.must_be_on(3, Cni::Calico).unwrap();
    scenario.settled().unwrap();
    scenario.must_be_whole().unwrap();
}
