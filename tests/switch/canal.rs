//! Clusters on Canal, whose nodes have flanneld and a calico-node for policy alone in one pod.

use std::time::Duration;

use nodectl_lab::cluster::Options;
use nodectl_lab::scenario::Scenario;
use nodectl_lab::wait::{eventually, stays};
use serde_json::{Value, json};

const POOLS: &str = "/apis/crd.projectcalico.org/v1/ippools";
const SET: &str = "/apis/apps/v1/namespaces/kube-system/daemonsets/canal";

fn start(nodes: u8) -> Scenario {
    Scenario::start(nodes, &Scenario::workloads(3), Options::canal).unwrap()
}

/// Names of Canal's pods, and whether all containers of each are Ready.
fn canal_pods(scenario: &Scenario) -> Vec<(String, bool)> {
    let pods = scenario.client.list("/api/v1/namespaces/kube-system/pods?labelSelector=k8s-app%3Dcanal").unwrap();
    let is_ready = |pod: &Value| {
        let containers = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        containers.len() == 2 && containers.iter().all(|container| container["ready"] == true)
    };
    pods.iter().map(|pod| (pod["metadata"]["name"].as_str().unwrap().to_owned(), is_ready(pod))).collect()
}

fn all_ready(scenario: &Scenario) -> bool {
    let pods = canal_pods(scenario);
    pods.len() == 1 && pods.iter().all(|(_, ready)| *ready)
}

/// What a Canal node looks like, and what its felix does when somebody makes a VXLAN pool.
#[test]
fn canals_felix_takes_to_vxlan_as_soon_as_there_is_a_pool_for_it() {
    let scenario = start(1);
    let node = scenario.node(1).unwrap();
    let script =
        "ip -br link; ip route; ls /etc/cni/net.d /var/lib/cni/networks/k8s-pod-network; find /run/flannel || true";
    let look = || node.sh(script).unwrap();
    let seen = look();
    assert!(seen.contains("flannel.1") && seen.contains("10-canal.conflist") && seen.contains("10.244.1."), "{seen}");
    assert!(!seen.contains("cni0") && !seen.contains("subnet.env"), "{seen}");
    assert!(!seen.contains("vxlan.calico") && !seen.contains("blackhole"), "{seen}");
    eventually("Canal's pod is Ready", || all_ready(&scenario));

    let pool = json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": {"name": "default-ipv4-ippool"},
        "spec": {"cidr": "10.244.0.0/16", "blockSize": 26, "vxlanMode": "Always", "ipipMode": "Never", "nodeSelector": "all()"}});
    scenario.client.create(POOLS, &pool).unwrap();
    eventually("felix is not ready any more: it wants a device that it cannot have", || !all_ready(&scenario));

    let mut set = scenario.client.get(SET).unwrap();
    let env = set["spec"]["template"]["spec"]["containers"][0]["env"].as_array_mut().unwrap();
    env.push(json!({"name": "FELIX_VXLANENABLED", "value": "false"}));
    scenario.client.update(SET, &set).unwrap();
    eventually("with the variable it leaves VXLAN alone", || all_ready(&scenario));
    assert!(stays(Duration::from_secs(3), || all_ready(&scenario)));
    assert!(!look().contains("vxlan.calico"));
}

#[test]
fn pods_of_a_cluster_on_canal_reach_each_other_and_leave_nothing() {
    let scenario = start(2);
    scenario.must_be_whole_and_tidy("on Canal").unwrap();
    scenario.spread_pods().unwrap();
    scenario.must_be_whole_and_tidy("with other pods").unwrap();
}
