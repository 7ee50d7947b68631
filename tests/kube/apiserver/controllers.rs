//! The controllers: each does its work, and the inconvenient parts of it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nodectl_lab::client::{Client, Patch};
use nodectl_lab::objects::{self, Manifest, workloads};
use nodectl_lab::wait::{eventually, within};
use serde_json::{Value, json};

use super::support::{Fixture, make_ready, play_kubelet, pods};

fn cluster(nodes: usize) -> Fixture {
    let fixture = Fixture::with(|options| options.controllers.node_grace_ms = Duration::from_secs(3600));
    for number in 1..=nodes {
        let name = format!("node{number}");
        let node =
            fixture.admin.create("/api/v1/nodes", &objects::node(&name, &format!("192.168.77.{number}"))).unwrap();
        assert_eq!(node["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready");
        make_ready(&fixture.admin, &name);
        // Nothing is scheduled to it before.
        let path = format!("/api/v1/nodes/{name}");
        fixture.admin.wait_for(&path, Duration::from_secs(10), |node| node["spec"]["taints"].is_null()).unwrap();
    }
    fixture
}

fn install(fixture: &Fixture, manifests: &[Manifest]) {
    objects::install(&fixture.admin, manifests).unwrap();
}

/// "node/state" of every pod with a label, sorted.
fn places(admin: &Client, app: &str) -> Vec<String> {
    let mut found: Vec<String> = admin
        .list(&format!("/api/v1/pods?labelSelector=app%3D{app}"))
        .unwrap()
        .iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .map(|pod| pod["spec"]["nodeName"].as_str().unwrap_or("-").to_string())
        .collect();
    found.sort();
    found
}

#[test]
fn nodes_get_the_pod_network_of_their_number() {
    let fixture = cluster(3);
    for number in 1..=3 {
        let path = format!("/api/v1/nodes/node{number}");
        let expected = format!("10.244.{number}.0/24");
        fixture
            .admin
            .wait_for(&path, Duration::from_secs(5), |node| node["spec"]["podCIDR"] == expected.as_str())
            .unwrap();
    }
}

#[test]
fn a_daemon_set_follows_labels_within_a_third_of_a_second() {
    let fixture = cluster(3);
    let mut set = workloads::daemon("agent");
    set.object["spec"]["template"]["spec"]["nodeSelector"] = json!({"nodectl.io/cni": "calico"});
    install(&fixture, &[set]);
    let label = |value: Value| json!({"metadata": {"labels": {"nodectl.io/cni": value}}});
    let node = fixture.node("node2");
    node.patch("/api/v1/nodes/node2", Patch::Merge, &label(json!("calico"))).unwrap();
    let start = Instant::now();
    within(Duration::from_secs(2), "the pod is there", || places(&fixture.admin, "agent") == ["node2"]);
    play_kubelet(&fixture.admin);
    node.patch("/api/v1/nodes/node2", Patch::Merge, &label(json!("none"))).unwrap();
    within(Duration::from_secs(2), "the pod is on its way", || places(&fixture.admin, "agent").is_empty());
    assert!(start.elapsed() < Duration::from_secs(2));
    // It goes only when the kubelet lets it go.
    assert_eq!(fixture.admin.list(&pods("")).unwrap().len(), 1);
    play_kubelet(&fixture.admin);
    assert!(fixture.admin.list(&pods("")).unwrap().is_empty());
}

#[test]
fn a_changed_template_rolls_one_pod_at_a_time() {
    let fixture = cluster(3);
    install(&fixture, &[workloads::daemon("agent")]);
    let path = "/apis/apps/v1/namespaces/default/daemonsets/agent";
    let settled = |set: &Value| set["status"]["numberReady"] == 3 && set["status"]["updatedNumberScheduled"] == 3;
    eventually("all serve", || {
        play_kubelet(&fixture.admin);
        settled(&fixture.admin.get(path).unwrap())
    });
    let before = ready(&fixture.admin);
    let template = json!({"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/os": "linux"}}}}});
    fixture.admin.patch(path, Patch::Strategic, &template).unwrap();
    let mut fewest = 3;
    eventually("all are new", || {
        fewest = fewest.min(ready(&fixture.admin).len());
        std::thread::sleep(Duration::from_millis(40));
        play_kubelet(&fixture.admin);
        let set = fixture.admin.get(path).unwrap();
        settled(&set) && set["status"]["observedGeneration"] == 2
    });
    assert_eq!(fewest, 2);
    assert!(ready(&fixture.admin).is_disjoint(&before));
}

fn ready(admin: &Client) -> BTreeSet<String> {
    let all = admin.list("/api/v1/pods?labelSelector=app%3Dagent").unwrap();
    let serving =
        all.iter().filter(|pod| pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null());
    serving.map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_string()).collect()
}

#[test]
fn a_cordoned_node_gets_daemons_but_no_other_pods() {
    let fixture = cluster(2);
    fixture.admin.patch("/api/v1/nodes/node1", Patch::Merge, &json!({"spec": {"unschedulable": true}})).unwrap();
    let limit = Duration::from_secs(5);
    let tainted = |node: &Value| node["spec"]["taints"][0]["key"] == "node.kubernetes.io/unschedulable";
    fixture.admin.wait_for("/api/v1/nodes/node1", limit, tainted).unwrap();
    install(&fixture, &[workloads::daemon("agent"), workloads::deployment("web", 3)]);
    eventually("all are placed", || {
        places(&fixture.admin, "agent") == ["node1", "node2"] && places(&fixture.admin, "web") == ["node2"; 3]
    });
    fixture.admin.patch("/api/v1/nodes/node1", Patch::Merge, &json!({"spec": {"unschedulable": null}})).unwrap();
    fixture.admin.wait_for("/api/v1/nodes/node1", limit, |node| node["spec"]["taints"].is_null()).unwrap();
}

#[test]
fn an_evicted_pod_comes_back_elsewhere_and_goes_with_its_owner() {
    let fixture = cluster(2);
    let policy = fixture.server.regime.policy();
    install(&fixture, &[workloads::deployment("web", 4)]);
    eventually("spread evenly", || places(&fixture.admin, "web") == ["node1", "node1", "node2", "node2"]);
    play_kubelet(&fixture.admin);
    fixture.admin.patch("/api/v1/nodes/node1", Patch::Merge, &json!({"spec": {"unschedulable": true}})).unwrap();
    for pod in fixture.admin.list("/api/v1/pods?fieldSelector=spec.nodeName%3Dnode1").unwrap() {
        fixture.admin.evict("default", pod["metadata"]["name"].as_str().unwrap(), policy, &Value::Null).unwrap();
    }
    eventually("all are on node2", || places(&fixture.admin, "web") == ["node2"; 4]);
    fixture.admin.delete("/apis/apps/v1/namespaces/default/deployments/web").unwrap();
    eventually("nothing is left", || {
        play_kubelet(&fixture.admin);
        fixture.admin.list(&pods("")).unwrap().is_empty()
    });
}

#[test]
fn a_silent_node_is_not_ready_and_its_taints_say_so() {
    let fixture = Fixture::with(|options| options.controllers.node_grace_ms = Duration::from_secs(2));
    fixture.admin.create("/api/v1/nodes", &objects::node("node1", "192.168.77.1")).unwrap();
    make_ready(&fixture.admin, "node1");
    let limit = Duration::from_secs(10);
    let unknown = |node: &Value| node["status"]["conditions"][0]["status"] == "Unknown";
    fixture.admin.wait_for("/api/v1/nodes/node1", limit, unknown).unwrap();
    let tainted = |node: &Value| node["spec"]["taints"].to_string().contains("node.kubernetes.io/unreachable");
    fixture.admin.wait_for("/api/v1/nodes/node1", limit, tainted).unwrap();
    make_ready(&fixture.admin, "node1");
    fixture.admin.wait_for("/api/v1/nodes/node1", limit, |node| node["spec"]["taints"].is_null()).unwrap();
}

#[test]
fn a_namespace_takes_its_contents_along() {
    let fixture = cluster(0);
    install(&fixture, &objects::flannel::manifests(&objects::flannel::Flannel::default()));
    fixture.admin.delete("/api/v1/namespaces/kube-flannel").unwrap();
    eventually("the namespace is gone", || fixture.admin.find("/api/v1/namespaces/kube-flannel").unwrap().is_none());
    let left = fixture.admin.find("/apis/apps/v1/namespaces/kube-flannel/daemonsets/kube-flannel-ds").unwrap();
    assert!(left.is_none());
}

const CALICO: &str = "crd.projectcalico.org/v1";

/// Calico's blocks of a node: the first with one address in use by a pod that is not there, the others empty.
fn blocks(fixture: &Fixture, node: &str, octet: u8) {
    let group = objects::calico::GROUP;
    for quarter in 0..4u8 {
        let cidr = format!("10.244.{octet}.{}/26", u32::from(quarter) * 64);
        let name = cidr.replace(['.', '/'], "-");
        let mut allocations = vec![Value::Null; 64];
        let mut attributes = json!([]);
        if quarter == 0 {
            allocations[5] = json!(0);
            attributes = json!([{"handle_id": format!("k8s-pod-network.{node}"), "secondary": {"node": node, "namespace": "default", "pod": "gone"}}]);
        }
        let spec = json!({"cidr": cidr, "affinity": format!("host:{node}"), "allocations": allocations, "unallocated": [],
            "attributes": attributes, "sequenceNumber": 1, "strictAffinity": false, "deleted": false});
        let block = json!({"kind": "IPAMBlock", "apiVersion": CALICO, "metadata": {"name": name}, "spec": spec});
        fixture.admin.create(&format!("{group}/ipamblocks"), &block).unwrap();
        let affinity = json!({"kind": "BlockAffinity", "apiVersion": CALICO, "metadata": {"name": format!("{node}-{name}")}, "spec": {"cidr": cidr, "node": node, "state": "confirmed", "deleted": "false"}});
        fixture.admin.create(&format!("{group}/blockaffinities"), &affinity).unwrap();
    }
}

#[test]
fn calicos_collector_takes_empty_blocks_unless_the_node_is_being_migrated() {
    let fixture = Fixture::with(|options| {
        options.controllers.node_grace_ms = Duration::from_secs(3600);
        options.controllers.ipam_gc_grace_ms = Duration::ZERO;
    });
    install(&fixture, &objects::calico_crds::manifests());
    for (number, label) in [(1u8, json!("flannel")), (2, json!("calico")), (3, Value::Null)] {
        let mut node = objects::node(&format!("node{number}"), &format!("192.168.77.{number}"));
        node["metadata"]["labels"]["projectcalico.org/node-network-during-migration"] = label;
        fixture.admin.create("/api/v1/nodes", &node).unwrap();
        blocks(&fixture, &format!("node{number}"), number);
    }
    fixture
        .admin
        .create(
            &format!("{}/ipamhandles", objects::calico::GROUP),
            &json!({"kind": "IPAMHandle", "apiVersion": CALICO, "metadata": {"name": "k8s-pod-network.node2"},
        "spec": {"handleID": "k8s-pod-network.node2", "block": {"10.244.2.0/26": 1}}}),
        )
        .unwrap();
    // The null label above is none at all.
    fixture.server.control.run("gc");
    let count = |resource: &str, part: &str| {
        let all = fixture.admin.list(&format!("{}/{resource}", objects::calico::GROUP)).unwrap();
        all.iter().filter(|object| object["metadata"]["name"].as_str().unwrap().contains(part)).count()
    };
    assert_eq!(count("ipamblocks", "10-244-1-"), 4);
    assert_eq!(count("ipamblocks", "10-244-2-"), 1);
    assert_eq!(count("blockaffinities", "node2-"), 1);
    assert_eq!(count("ipamhandles", ""), 0);
    // The leaked address went too, wherever it was.
    let block = fixture.admin.get(&format!("{}/ipamblocks/10-244-1-0-26", objects::calico::GROUP)).unwrap();
    assert_eq!((&block["spec"]["allocations"][5], &block["spec"]["attributes"]), (&Value::Null, &json!([])));
}

#[test]
fn the_same_controllers_serve_another_api_server_over_a_client() {
    let fixture = Fixture::with(|options| options.no_controllers = true);
    let options = nodectl_lab::apiserver::ControllerOptions {
        node_grace_ms: Duration::from_secs(3600),
        settle_ms: Duration::from_millis(10),
        ..Default::default()
    };
    let running = nodectl_lab::controllers::Controllers::start_remote(fixture.admin.clone(), &options).unwrap();
    fixture.admin.create("/api/v1/nodes", &objects::node("node1", "192.168.77.1")).unwrap();
    make_ready(&fixture.admin, "node1");
    install(&fixture, &[objects::namespace("extra"), workloads::daemon("agent"), workloads::deployment("web", 2)]);
    eventually("all are placed", || {
        places(&fixture.admin, "agent") == ["node1"] && places(&fixture.admin, "web") == ["node1"; 2]
    });
    fixture.admin.delete("/api/v1/namespaces/extra").unwrap();
    eventually("the namespace is gone", || fixture.admin.find("/api/v1/namespaces/extra").unwrap().is_none());
    running.stop();
}

#[test]
fn in_a_dual_stack_cluster_a_node_gets_a_network_of_each_family_and_keeps_two_addresses() {
    let fixture = Fixture::with(|options| {
        options.controllers.cluster_cidr_v6 = Some("fd00:10:244::/56".parse().unwrap());
        options.controllers.node_grace_ms = Duration::from_secs(3600);
    });
    let created = |name: &str, cidrs: Value| {
        fixture.admin.create("/api/v1/nodes", &objects::node(name, "192.168.77.1")).unwrap();
        let path = format!("/api/v1/nodes/{name}");
        let has = |node: &Value| !node["spec"]["podCIDR"].is_null();
        let node = fixture.admin.wait_for(&path, Duration::from_secs(10), has).unwrap();
        assert_eq!(node["spec"]["podCIDRs"], cidrs, "{name}");
        assert_eq!(node["spec"]["podCIDR"], cidrs[0]);
    };
    created("node12", json!(["10.244.12.0/24", "fd00:10:244:c::/64"]));
    created("other", json!(["10.244.1.0/24", "fd00:10:244:1::/64"]));
    created("node1", json!(["10.244.2.0/24", "fd00:10:244:2::/64"]));
    // As the kubelet writes them: merged by their type, two addresses of one type would be one.
    let internal = |address: &str| json!({"type": "InternalIP", "address": address});
    let addresses = [internal("192.168.77.12"), internal("fd00::12"), json!({"type": "Hostname", "address": "node12"})];
    let mut patch = vec![json!({"$patch": "replace"})];
    patch.extend(addresses.iter().cloned());
    let body = json!({"status": {"addresses": patch}});
    let node = fixture.admin.patch("/api/v1/nodes/node12/status", Patch::Strategic, &body).unwrap();
    assert_eq!(node["status"]["addresses"], json!(addresses));
}
