//! A cluster in memory, for the tests of what `nodectl cluster` decides.
#![allow(dead_code, missing_docs)]

use std::path::{Path, PathBuf};

use nodectl::cluster::Run;
use nodectl::cluster::change::{Action, Change};
use nodectl::cluster::decision::Decision;
use nodectl::cluster::facts::ClusterFacts;
use nodectl::cluster::object::{Kind, name, namespace, text_map};
use nodectl::cluster::request::{Now, Request};
use serde_json::{Map, Value, json};

pub type Decide = fn(&ClusterFacts, &Request) -> Decision;

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/cluster")
}

pub fn read<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A fresh cluster of two nodes on flannel, with Calico installed and running nowhere.
pub fn fresh() -> ClusterFacts {
    read(&folder().join("base.json"))
}

/// The same, where flannel carries IPv6 beside IPv4 and Calico is installed to do so.
pub fn dual_stack() -> ClusterFacts {
    let mut facts = fresh();
    for (at, node) in facts.nodes.iter_mut().enumerate() {
        let at = at + 1;
        node["spec"]["podCIDRs"] = json!([format!("10.244.{at}.0/24"), format!("fd00:10:244:{at}::/64")]);
        let annotations = &mut node["metadata"]["annotations"];
        let data = json!({"VNI": 1, "VtepMAC": format!("0e:00:00:00:06:0{at}")});
        annotations["flannel.alpha.coreos.com/backend-v6-data"] = json!(data.to_string());
        annotations["flannel.alpha.coreos.com/public-ipv6"] = json!(format!("2001:db8:77::{at}"));
        let addresses = json!([
            {"type": "InternalIP", "address": format!("192.168.77.{at}")},
            {"type": "InternalIP", "address": format!("2001:db8:77::{at}")},
        ]);
        node["status"]["addresses"] = addresses;
    }
    let net_conf = json!({"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:244::/48",
        "Backend": {"Type": "vxlan"}});
    for map in &mut facts.config_maps {
        if map["data"]["net-conf.json"].is_string() {
            map["data"]["net-conf.json"] = json!(net_conf.to_string());
        }
        if let Some(template) = map["data"]["cni_network_config"].as_str() {
            let both = r#""calico-ipam", "assign_ipv4": "true", "assign_ipv6": "true""#;
            map["data"]["cni_network_config"] = json!(template.replace(r#""calico-ipam""#, both));
        }
    }
    let calico = facts.daemon_sets.iter_mut().find(|d| name(d) == "calico-node").unwrap();
    let env = calico.pointer_mut("/spec/template/spec/containers/0/env").and_then(Value::as_array_mut).unwrap();
    env.push(json!({"name": "FELIX_IPV6SUPPORT", "value": "true"}));
    env.push(json!({"name": "IP6", "value": "autodetect"}));
    facts
}

/// The same on Canal: both agents in one DaemonSet, Calico's plugin with host-local's addresses.
pub fn canal() -> ClusterFacts {
    let mut facts = fresh();
    let calico = facts.daemon_sets.iter().find(|d| name(d) == "calico-node").unwrap().clone();
    let map = facts.config_maps.iter().find(|m| m["data"]["cni_network_config"].is_string()).unwrap();
    let template = map["data"]["cni_network_config"].as_str().unwrap();
    let template = template.replace(r#""type": "calico-ipam""#, r#""type": "host-local", "subnet": "usePodCidr""#);
    assert!(template.contains("host-local"), "{template}");
    let set = facts.daemon_sets.iter_mut().find(|d| name(d) == "kube-flannel-ds").unwrap();
    set["metadata"]["name"] = json!("canal");
    set["metadata"]["namespace"] = json!("kube-system");
    let pod = &mut set["spec"]["template"]["spec"];
    let flanneld = pod["containers"][0].clone();
    let from_map = |name: &str, key: &str| json!({"name": name, "valueFrom": {"configMapKeyRef": {"name": "canal-config", "key": key}}});
    pod["serviceAccountName"] = json!("canal");
    pod["containers"] = json!([
        {"name": "calico-node", "image": "quay.io/calico/node:v3.31.0", "env": [
            {"name": "DATASTORE_TYPE", "value": "kubernetes"}, {"name": "USE_POD_CIDR", "value": "true"},
            {"name": "CALICO_NETWORKING_BACKEND", "value": "none"}]},
        flanneld]);
    pod["initContainers"] = json!([{"name": "install-cni", "image": "quay.io/calico/cni:v3.31.0",
        "env": [{"name": "CNI_CONF_NAME", "value": "10-canal.conflist"}, from_map("CNI_NETWORK_CONFIG", "cni_network_config")],
        "volumeMounts": [{"name": "cni-net-dir", "mountPath": "/host/etc/cni/net.d"}]}]);
    pod["volumes"] = json!([{"name": "cni-net-dir", "hostPath": {"path": "/etc/cni/net.d"}},
        {"name": "flannel-cfg", "configMap": {"name": "canal-config"}}]);
    assert_eq!(namespace(&calico), "kube-system");
    let map = facts.config_maps.iter_mut().find(|m| m["data"]["net-conf.json"].is_string()).unwrap();
    let network = map["data"]["net-conf.json"].clone();
    map["metadata"]["name"] = json!("canal-config");
    map["metadata"]["namespace"] = json!("kube-system");
    map["data"] = json!({"net-conf.json": network, "cni_network_config": template, "masquerade": "true"});
    for pod in facts.pods.iter_mut().filter(|pod| pod.daemon_set == "kube-flannel-ds") {
        pod.daemon_set = "canal".into();
        pod.namespace = "kube-system".into();
        pod.name = pod.name.replace("kube-flannel-ds", "canal");
    }
    // Canal's calico-node makes it when it starts; nobody has an address of it.
    facts.ip_pools = vec![json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool",
        "metadata": {"name": "default-ipv4-ippool"},
        "spec": {"cidr": "10.244.0.0/16", "blockSize": 26, "ipipMode": "Never", "vxlanMode": "Never", "natOutgoing": true,
            "nodeSelector": "all()", "allowedUses": ["Workload", "Tunnel"]}})];
    facts.flannel_rest.namespace = None;
    facts.flannel_rest.inhabitants.clear();
    facts.flannel_rest.service_accounts = vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "canal", "namespace": "kube-system"}}),
    ];
    facts
}

pub fn now() -> Now {
    Now { rfc3339: "2026-11-21T02:00:00Z".to_owned(), unix_ns: 1_795_226_400_000_000_000 }
}

pub fn request() -> Request {
    Request { now: now(), ..Request::default() }
}

/// What a dry run would print.
pub fn dry_run(command: &'static str, decision: &Decision) -> Run {
    Run {
        command,
        dry_run: true,
        refused: decision.is_refused(),
        checks: decision.checks.clone(),
        changes: decision.changes.clone(),
        pending: decision.waits(),
        notes: decision.notes.clone(),
        fleet: decision.fleet.clone(),
        ..Run::default()
    }
}

/// Does one write as the server would.
pub fn apply(facts: &mut ClusterFacts, change: &Change) {
    let target = &change.target;
    if target.kind == Kind::ConfigMap && target.name == "nodectl-cluster" {
        facts.record = change.after.clone();
        return;
    }
    if target.kind == Kind::Namespace {
        facts.flannel_rest.namespace = None;
        return;
    }
    let objects = match target.kind {
        Kind::Node => &mut facts.nodes,
        Kind::ConfigMap => &mut facts.config_maps,
        Kind::DaemonSet => &mut facts.daemon_sets,
        Kind::FelixConfiguration => &mut facts.felix_configurations,
        Kind::IPPool => &mut facts.ip_pools,
        Kind::IPAMConfig => &mut facts.ipam_configs,
        Kind::IPAMBlock => &mut facts.ipam_blocks,
        Kind::BlockAffinity => &mut facts.block_affinities,
        Kind::IPAMHandle => &mut facts.ipam_handles,
        Kind::ServiceAccount => &mut facts.flannel_rest.service_accounts,
        Kind::ClusterRole => &mut facts.flannel_rest.cluster_roles,
        Kind::ClusterRoleBinding => &mut facts.flannel_rest.cluster_role_bindings,
        Kind::Namespace => unreachable!(),
    };
    let at = objects.iter().position(|o| name(o) == target.name && namespace(o) == target.namespace);
    match (change.action, at) {
        (Action::Create, None) => objects.push(change.after.clone().unwrap()),
        (Action::Update, Some(at)) => {
            apply_patch(&mut objects[at], &change.patch());
            assert_eq!(Some(&objects[at]), change.after.as_ref(), "the patch of {target} does not make what was shown");
        }
        (Action::Delete, Some(at)) => drop(objects.remove(at)),
        (action, at) => panic!("{action:?} of {target}, which stands at {at:?}"),
    }
}

/// Every agent's pods are replaced after its DaemonSet; each DaemonSet runs where its selector lets it.
pub fn roll(facts: &mut ClusterFacts) {
    let sets = facts.daemon_sets.clone();
    let find =
        |namespace_of: &str, set: &str| sets.iter().find(|d| namespace(d) == namespace_of && name(d) == set).cloned();
    facts.pods.retain_mut(|pod| {
        let Some(set) = find(&pod.namespace, &pod.daemon_set) else { return false };
        pod.node_selector = text_map(&set, "/spec/template/spec/nodeSelector");
        let variables = set.pointer("/spec/template/spec/containers/0/env").and_then(Value::as_array);
        let off = json!({"name": "FELIX_VXLANENABLED", "value": "false"});
        pod.leaves_vxlan_alone = variables.is_some_and(|all| all.contains(&off));
        true
    });
}

/// Decides and does until nothing is left, as the command does; returns how many writes it took.
pub fn converge(facts: &mut ClusterFacts, decide: Decide, request: &Request) -> usize {
    let mut writes = 0;
    for _ in 0..20 {
        let decision = decide(facts, request);
        assert!(!decision.is_refused(), "refused: {:?}", refusals(&decision));
        if decision.changes.is_empty() {
            return writes;
        }
        for change in decision.ready() {
            apply(facts, change);
            writes += 1;
        }
        roll(facts);
    }
    panic!("it never comes to an end");
}

pub fn refusals(decision: &Decision) -> Vec<String> {
    let refused = decision.checks.iter().filter(|c| c.is_refused());
    refused.map(|c| format!("{}: {}", c.name, c.finding)).collect()
}

/// Puts a node on Calico or back, as its own nodectl would: the label, and the agent's pod.
pub fn switch(facts: &mut ClusterFacts, node: &str, to: &str) {
    let object = facts.nodes.iter_mut().find(|n| name(n) == node).unwrap();
    object["metadata"]["labels"]["nodectl.io/cni"] = Value::from(to);
    facts.pods.retain(|p| p.node != node);
    let is_canal = facts.daemon_sets.iter().any(|d| name(d) == "canal");
    let (space, set) = match (to, is_canal) {
        ("calico", _) => ("kube-system", "calico-node"),
        (_, true) => ("kube-system", "canal"),
        (_, false) => ("kube-flannel", "kube-flannel-ds"),
    };
    facts.pods.push(nodectl::cluster::facts::AgentPod {
        name: format!("{set}-{node}"),
        namespace: space.to_owned(),
        daemon_set: set.to_owned(),
        node: node.to_owned(),
        ready: true,
        ..Default::default()
    });
    roll(facts);
}

/// Compares two clusters and shows where they differ.
pub fn same(left: &ClusterFacts, right: &ClusterFacts, when: &str) {
    if left == right {
        return;
    }
    let lines = |facts: &ClusterFacts| {
        serde_json::to_string_pretty(facts).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let (left, right) = (lines(left), lines(right));
    let only = |a: &[String], b: &[String]| a.iter().filter(|l| !b.contains(l)).cloned().collect::<Vec<_>>().join("\n");
    panic!("{when}\nonly here:\n{}\nonly there:\n{}", only(&left, &right), only(&right, &left));
}

/// Applies a merge patch.
fn apply_patch(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(map) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            map.shift_remove(key);
        } else {
            apply_patch(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
