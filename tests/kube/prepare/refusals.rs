//! Refusals: the name of the check, and nothing written.

use serde_json::{Value, json};

use super::fixture::{Cluster, same};

const FLANNEL: &str = "/apis/apps/v1/namespaces/kube-flannel/daemonsets/kube-flannel-ds";
const CALICO: &str = "/apis/apps/v1/namespaces/kube-system/daemonsets/calico-node";
const CONFIG: &str = "/api/v1/namespaces/kube-flannel/configmaps/kube-flannel-cfg";
const RESOURCES: &str = "/apis/crd.projectcalico.org/v1";

/// What is done to the cluster, the check that must refuse, and how it is undone.
struct Case {
    check: &'static str,
    path: String,
    patch: Value,
    undo: Value,
}

fn case(check: &'static str, path: impl Into<String>, patch: Value, undo: Value) -> Case {
    Case { check, path: path.into(), patch, undo }
}

fn labels(key: &str, value: &str) -> (Value, Value) {
    (json!({"metadata": {"labels": {key: value}}}), json!({"metadata": {"labels": {key: null}}}))
}

fn annotations(key: &str, value: &str) -> (Value, Value) {
    (json!({"metadata": {"annotations": {key: value}}}), json!({"metadata": {"annotations": {key: null}}}))
}

fn net_conf(conf: &Value) -> Value {
    json!({"data": {"net-conf.json": conf.to_string()}})
}

fn cases() -> Vec<Case> {
    let good = net_conf(&json!({"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}));
    let mut cases = Vec::new();
    for backend in
        [json!({"Type": "host-gw"}), json!({"Type": "wireguard"}), json!({"Type": "vxlan", "DirectRouting": true})]
    {
        let conf = net_conf(&json!({"Network": "10.244.0.0/16", "Backend": backend}));
        cases.push(case("flannel-backend", CONFIG, conf, good.clone()));
    }
    let without_ipv4 = json!({"Network": "10.244.0.0/16", "EnableIPv4": false, "Backend": {"Type": "vxlan"}});
    cases.push(case("flannel-families", CONFIG, net_conf(&without_ipv4), good));
    let (set, unset) = labels("addonmanager.kubernetes.io/mode", "EnsureExists");
    cases.push(case("flannel-manager", FLANNEL, set, unset));
    for mark in ["meta.helm.sh/release-name", "argocd.argoproj.io/tracking-id"] {
        let (set, unset) = annotations(mark, "flannel");
        cases.push(case("flannel-owner", FLANNEL, set, unset));
    }
    let (set, unset) = labels("helm.toolkit.fluxcd.io/name", "flannel");
    cases.push(case("flannel-owner", FLANNEL, set, unset));
    let selector = |value: Value| json!({"spec": {"template": {"spec": {"nodeSelector": {"nodectl.io/cni": value}}}}});
    cases.push(case("calico-node-selector", CALICO, selector(Value::Null), selector(json!("calico"))));
    let (set, unset) = labels("nodectl.io/cni", "weave");
    cases.push(case("node-label", "/api/v1/nodes/node1", set, unset));
    let key = "flannel.alpha.coreos.com/backend-type";
    cases.push(case("node-flannel", "/api/v1/nodes/node2", annotations(key, "host-gw").0, annotations(key, "vxlan").0));
    cases
}

#[test]
fn each_refusal_is_named_and_writes_nothing() {
    let cluster = Cluster::start(2);
    for Case { check, path, patch, undo } in cases() {
        cluster.patch(&path, &patch);
        cluster.settle();
        let before = cluster.dump();
        let refused = cluster.run(&["prepare"]).exits(3);
        assert_eq!(refused.refusals(), [check], "{patch}");
        same(&cluster.dump(), &before);
        cluster.patch(&path, &undo);
    }
    cluster.settle();
    cluster.run(&["prepare", "--dry-run"]).exits(0);
}

#[test]
fn objects_that_are_in_the_way_are_refused() {
    let cluster = Cluster::start(1);
    let pool = |name: &str, cidr: &str| {
        json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": {"name": name},
            "spec": {"cidr": cidr, "ipipMode": "Always", "vxlanMode": "Never"}})
    };
    let block = json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMBlock", "metadata": {"name": "10-244-1-64-26"},
        "spec": {"cidr": "10.244.1.64/26", "affinity": "host:elsewhere", "allocations": [], "unallocated": [], "attributes": [],
            "strictAffinity": false}});
    for (check, plural, object) in [
        ("calico-pools", "ippools", pool("half", "10.244.0.0/17")),
        ("calico-pools", "ippools", pool("pods", "10.244.0.0/16")),
        ("calico-pools", "ippools", pool("other", "192.168.0.0/16")),
        ("node-blocks", "ipamblocks", block),
    ] {
        let collection = format!("{RESOURCES}/{plural}");
        cluster.admin().create(&collection, &object).unwrap();
        let refused = cluster.run(&["prepare"]).exits(3);
        assert_eq!(refused.refusals(), [check]);
        cluster.admin().delete(&format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap())).unwrap();
    }
}

#[test]
fn without_flannel_or_calico_there_is_nothing_to_prepare() {
    let cluster = Cluster::start(1);
    cluster.admin().delete(CALICO).unwrap();
    assert_eq!(cluster.run(&["prepare"]).exits(3).refusals(), ["calico-daemonset"]);
    cluster
        .admin()
        .delete("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/ipamblocks.crd.projectcalico.org")
        .unwrap();
    assert_eq!(cluster.run(&["prepare"]).exits(3).refusals(), ["calico-resources", "calico-daemonset"]);
    cluster.admin().delete(FLANNEL).unwrap();
    let refused = cluster.run(&["prepare"]).exits(3);
    assert_eq!(refused.refusals(), ["flannel-daemonset", "calico-resources", "calico-daemonset"]);
}

#[test]
fn a_kubeconfig_that_is_no_administrators_is_told_so() {
    let cluster = Cluster::start(1);
    let pki = &cluster.fixture.server.pki;
    let text = pki.inline_kubeconfig(&cluster.fixture.server.url(), "user", &pki.node("node1").unwrap()).unwrap();
    std::fs::write(cluster.fixture.path("admin.conf"), text).unwrap();
    let failed = cluster.run(&["prepare"]).exits(1);
    assert!(failed.stderr.contains("forbidden"), "{}", failed.stderr);
}
