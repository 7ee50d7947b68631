//! Clusters on Canal.

use nodectl::prepared::Prepared;
use nodectl_lab::objects::canal;
use serde_json::{Value, json};

use super::fixture::{Cluster, same};

const SET: &str = "/apis/apps/v1/namespaces/kube-system/daemonsets/canal";
const POOLS: &str = "/apis/crd.projectcalico.org/v1/ippools";

/// The variable with which felix leaves VXLAN alone, as a DaemonSet or a pod has it.
fn switch(pod_spec: &Value) -> Option<Value> {
    let containers = pod_spec["containers"].as_array().unwrap();
    let node = containers.iter().find(|c| c["name"] == "calico-node").unwrap();
    let env = node["env"].as_array().unwrap();
    env.iter().find(|variable| variable["name"] == "FELIX_VXLANENABLED").map(|variable| variable["value"].clone())
}

#[test]
fn a_cluster_on_canal_is_prepared_and_put_back() {
    let cluster = Cluster::canal(2);
    // Made by a calico-node of Canal's that was not told the cluster's network.
    let idle = json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": {"name": "default-ipv4-ippool"},
        "spec": {"cidr": "192.168.0.0/16", "blockSize": 26, "vxlanMode": "Never", "ipipMode": "Never", "nodeSelector": "all()"}});
    cluster.admin().create(POOLS, &idle).unwrap();
    cluster.settle();
    let fresh = cluster.dump();
    assert_eq!(cluster.run(&["status"]).exits(2).json()["on"], "flannel");
    let run = cluster.run(&["prepare"]).exits(0).json();
    let place = |object: &str| {
        let changes = run["changes"].as_array().unwrap();
        changes
            .iter()
            .position(|c| c["object"].to_string().contains(object))
            .unwrap_or_else(|| panic!("{object}: {run}"))
    };
    assert!(place("canal") < place("FelixConfiguration") && place("canal") < place("IPPool"));
    let pods = cluster.admin().list("/api/v1/namespaces/kube-system/pods?labelSelector=k8s-app%3Dcanal").unwrap();
    assert_eq!(pods.len(), 2);
    assert!(pods.iter().all(|pod| switch(&pod["spec"]) == Some(json!("false"))), "every pod was replaced");

    let given = cluster.admin().list(POOLS).unwrap();
    let given: Vec<&Value> = given.iter().filter(|pool| pool["spec"]["disabled"] != true).collect();
    assert_eq!(given.len(), 1, "{given:?}");
    assert_eq!(
        (&given[0]["spec"]["cidr"], &given[0]["spec"]["vxlanMode"]),
        (&json!("10.244.0.0/16"), &json!("Always"))
    );

    let prepared = cluster.node(1)["metadata"]["annotations"]["nodectl.io/prepared"].as_str().unwrap().to_owned();
    let prepared = Prepared::parse(&prepared).unwrap();
    assert!(prepared.canal);
    assert_eq!((prepared.flannel.namespace.as_str(), prepared.flannel.daemonset.as_str()), ("kube-system", "canal"));
    assert_eq!(
        (prepared.flannel.conflist.as_str(), prepared.flannel.network.as_str()),
        ("10-canal.conflist", "k8s-pod-network")
    );

    let before = cluster.dump();
    assert_eq!(cluster.run(&["prepare"]).exits(0).json()["changed"], false);
    same(&cluster.dump(), &before);
    cluster.run(&["abort"]).exits(0);
    cluster.settle();
    same(&cluster.dump(), &fresh);
}

#[test]
fn nothing_for_vxlan_is_written_while_a_pod_of_canals_is_the_old_one() {
    let cluster = Cluster::canal(1);
    cluster.patch(SET, &json!({"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}}));
    let run = cluster.run(&["prepare", "--wait", "3"]);
    assert!(run.stdout.contains("Canal's pod on node1 to be replaced"), "{}{}", run.stdout, run.stderr);
    assert_eq!(switch(&cluster.admin().get(SET).unwrap()["spec"]["template"]["spec"]), Some(json!("false")));
    assert!(cluster.admin().list(POOLS).unwrap().is_empty());
}

#[test]
fn canals_own_manifest_becomes_one_that_is_safe_to_apply() {
    let made = |cluster: &Cluster| {
        let canal = canal::Canal::default();
        let file = cluster.fixture.path("canal.yaml");
        let text = format!("---\n{}\n---\n{}\n", canal::config_map(&canal), canal::daemon_set(&canal));
        std::fs::write(&file, text).unwrap();
        cluster.run(&["manifest", file.to_str().unwrap()])
    };
    let cluster = Cluster::canal(1);
    let safe = made(&cluster).exits(0).json();
    assert_eq!(safe["objects"][0], canal::config_map(&canal::Canal::default()), "its plugin and its MTU stay");
    let pod = &safe["objects"][1]["spec"]["template"]["spec"];
    assert_eq!(pod["nodeSelector"]["nodectl.io/cni"], "flannel");
    assert_eq!(switch(pod), Some(json!("false")));
    // Applied after prepare, it changes nothing.
    cluster.run(&["prepare"]).exits(0);
    let live = cluster.admin().get(SET).unwrap();
    assert_eq!(environment(&live["spec"]["template"]["spec"]), environment(pod));

    let other = Cluster::start(1);
    let refused = made(&other).exits(3);
    assert!(refused.stderr.contains("on flannel alone") && refused.stderr.contains("To fix it"), "{}", refused.stderr);
}

/// The first container's; an API server leaves out a value that is empty.
fn environment(pod: &Value) -> Vec<Value> {
    let mut environment = pod["containers"][0]["env"].as_array().unwrap().clone();
    for variable in environment.iter_mut().filter(|variable| variable["value"] == "") {
        variable.as_object_mut().unwrap().remove("value");
    }
    environment
}
