//! Clusters on Canal, whose nodes have flanneld and a calico-node for policy alone in one pod.

#[path = "canal/trouble.rs"]
mod trouble;

use std::time::Duration;

use nodectl_lab::client::Patch;
use nodectl_lab::cluster::Options;
use nodectl_lab::scenario::crash::Sample;
use nodectl_lab::scenario::{Cni, Scenario};
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

    let pool = format!("{POOLS}/default-ipv4-ippool");
    let made = scenario.client.get(&pool).unwrap();
    assert_eq!((&made["spec"]["vxlanMode"], &made["spec"]["cidr"]), (&json!("Never"), &json!("10.244.0.0/16")));
    scenario.client.patch(&pool, Patch::Merge, &json!({"spec": {"vxlanMode": "Always"}})).unwrap();
    eventually("felix is not ready any more: it wants a device that it cannot have", || !all_ready(&scenario));

    let variable = json!({"name": "calico-node", "env": [{"name": "FELIX_VXLANENABLED", "value": "false"}]});
    let patch = json!({"spec": {"template": {"spec": {"containers": [variable]}}}});
    scenario.client.patch(SET, Patch::Strategic, &patch).unwrap();
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

/// doctor has nothing to say of a node on Canal, and cleanup takes neither side of it away.
#[test]
fn a_node_on_canal_is_taken_for_neither_cnis_leftovers() {
    let scenario = start(2);
    let doctor = scenario.nodectl(1, &["doctor"]).unwrap();
    assert_eq!(doctor.code, 0, "{}", doctor.all());
    for side in ["--flannel", "--calico"] {
        let refused = scenario.nodectl(1, &["cleanup", side, "--yes"]).unwrap().expect(3).unwrap();
        for name in ["agent-runs", "pods-depend", "cni-active"] {
            assert!(refused.all().contains(&format!("[{name}]")), "{side}, {name}: {}", refused.all());
        }
    }
    scenario.must_be_whole_and_tidy("asked").unwrap();
}

/// The arguments of the switch that is disturbed.
const MIGRATE: [&str; 6] = ["migrate", "--yes", "--drain-timeout", "60", "--agent-timeout", "60"];

fn prepared(nodes: u8) -> Scenario {
    let scenario = start(nodes);
    scenario.spread_pods().unwrap();
    scenario.prepare().unwrap();
    scenario
}

/// What [`Scenario::must_be_on`] does not look at: whose store and configuration are there, and who gives pods their addresses.
#[track_caller]
fn must_be_on(scenario: &Scenario, index: usize, cni: Cni) {
    scenario.must_be_on(index, cni).unwrap();
    let node = scenario.node(index).unwrap();
    let files = node.sh("ls -d /etc/cni/net.d/10-* /var/lib/cni/networks/k8s-pod-network || true").unwrap();
    let has = |path: &str| files.lines().any(|line| line == path);
    assert_eq!(has("/etc/cni/net.d/10-canal.conflist"), cni == Cni::Flannel, "{files}");
    assert_eq!(has("/etc/cni/net.d/10-calico.conflist"), cni == Cni::Calico, "{files}");
    assert_eq!(has("/var/lib/cni/networks/k8s-pod-network"), cni == Cni::Flannel, "{files}");
    let ready = scenario.client.get("/apis/crd.projectcalico.org/v1/clusterinformations/default").unwrap();
    assert_eq!(ready["spec"]["datastoreReady"], true, "the datastore of the cluster is not locked");
}

#[test]
fn nodes_on_canal_go_to_calico_and_back() {
    let scenario = prepared(2);
    scenario.must_be_whole_and_tidy("prepared").unwrap();
    for index in 1..=2 {
        scenario.migrate(index, Cni::Calico).unwrap();
        must_be_on(&scenario, index, Cni::Calico);
        scenario.must_be_whole_and_tidy(&format!("{index} of 2 nodes on Calico")).unwrap();
    }
    for (index, left) in [(1, 1), (2, 0)] {
        scenario.nodectl(index, &["revert", "--yes"]).unwrap().expect(0).unwrap();
        must_be_on(&scenario, index, Cni::Flannel);
        scenario.must_be_whole_and_tidy(&format!("back: {left} of 2 nodes on Calico")).unwrap();
    }
    scenario.cluster_command(&["abort"]).unwrap().expect(0).unwrap();
    assert!(scenario.blocks().unwrap().is_empty(), "abort takes the blocks away");
    eventually("Canal's pods are as they were", || {
        let set = scenario.client.get(SET).unwrap();
        !set.to_string().contains("FELIX_VXLANENABLED") && canal_pods(&scenario).iter().all(|(_, ready)| *ready)
    });
    scenario.must_be_whole_and_tidy("after abort").unwrap();
}

#[test]
fn a_switch_from_canal_that_is_killed_is_finished_or_taken_back() {
    let scenario = prepared(2);
    let points = scenario.fault_points(1, |env| scenario.nodectl_with(1, &MIGRATE, env)).unwrap();
    scenario.nodectl(1, &["revert", "--yes"]).unwrap().expect(0).unwrap();
    must_be_on(&scenario, 1, Cni::Flannel);
    // Where the store goes, the overlay changes hands, and some of the other places.
    let own = points.iter().enumerate().filter(|(_, point)| point.contains("rename_link")).map(|(at, _)| at + 1);
    let store = points.iter().position(|point| point == "backup.rename").map(|at| at + 1);
    let mut places: Vec<usize> = own.chain(store).chain(Sample::from_environment().of(points.len(), 4)).collect();
    places.sort_unstable();
    places.dedup();
    for (i, n) in places.into_iter().enumerate() {
        let place = format!("point {n} of {}, {}", points.len(), points[n - 1]);
        println!("{place}");
        let died = scenario.dies_at(1, &MIGRATE, &n.to_string()).unwrap();
        if died && scenario.is_open(1).unwrap() && i % 2 == 0 {
            scenario.nodectl(1, &["resume", "--yes"]).unwrap().expect(0).unwrap();
            must_be_on(&scenario, 1, Cni::Calico);
            scenario.must_be_whole_and_tidy(&format!("{place}, resumed")).unwrap();
        }
        if scenario.is_open(1).unwrap() || scenario.one_of_both(1).unwrap() == Cni::Calico {
            scenario.nodectl(1, &["revert", "--yes"]).unwrap().expect(0).unwrap();
        }
        must_be_on(&scenario, 1, Cni::Flannel);
        scenario.must_be_whole_and_tidy(&format!("{place}, taken back")).unwrap();
    }
}
