//! A kubelet and Pods: those on its node, and the others.

use nodectl_lab::apiserver::Regime;
use serde_json::{Value, json};

use super::support::{Fixture, pods};
use super::{SAME, Table, label};

pub fn reading_pods(table: &mut Table<'_>) {
    const SELECTOR: &str = r#"pods is forbidden: User "system:node:node1" cannot list resource "pods" in API group "" at the cluster scope: can only list/watch pods with spec.nodeName field selector"#;
    table.get("own pods", "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode1", (200, 200), SAME);
    table.get("all pods", "/api/v1/pods", (200, 403), SELECTOR);
    table.get("node2's pods", "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode2", (200, 403), SELECTOR);
    table.get(
        "own running pods",
        "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode1,status.phase%3DRunning",
        (200, 200),
        SAME,
    );
    table.get(
        "own pods of a namespace",
        "/api/v1/namespaces/kube-system/pods?fieldSelector=spec.nodeName%3Dnode1",
        (200, 200),
        SAME,
    );
    table.get("pods by label", "/api/v1/pods?labelSelector=app%3Dp1a", (200, 403), SELECTOR);
    table.get("own pod", &pods("p1a"), (200, 200), SAME);
    table.get("node2's pod", &pods("p2a"), (200, 403), r#"pods "p2a" is forbidden: User "system:node:node1" cannot get resource "pods" in API group "" in the namespace "default": no relationship found between node 'node1' and this object"#);
}

pub fn eviction(table: &mut Table<'_>, fixture: &Fixture) {
    let version = format!("policy/{}", table.regime.policy());
    let evict = |name: &str, options: Value| json!({"apiVersion": version, "kind": "Eviction", "metadata": {"name": name, "namespace": "default"}, "deleteOptions": options});
    let path = |name: &str| format!("{}/eviction", pods(name));
    table.post("evict, dry run", &path("p1b"), evict("p1b", json!({"dryRun": ["All"]})), (201, 201), SAME);
    assert!(fixture.admin.get(&pods("p1b")).unwrap()["metadata"]["deletionTimestamp"].is_null());
    table.post("evict", &path("p1b"), evict("p1b", Value::Null), (201, 201), SAME);
    table.post("evict a pending pod behind a budget", &path("p1c"), evict("p1c", Value::Null), (201, 201), SAME);
    table.delete("delete, dry run", &format!("{}?dryRun=All", pods("p1d")), Value::Null, (200, 200), SAME);
    table.delete("delete", &pods("p1d"), Value::Null, (200, 200), SAME);
    table.delete("delete without grace", &pods("p1e"), json!({"gracePeriodSeconds": 0}), (200, 200), SAME);
    assert!(fixture.admin.find(&pods("p1e")).unwrap().is_none());
    table.delete("delete a collection", &format!("{}?fieldSelector=spec.nodeName%3Dnode1", pods("")), Value::Null, (403, 403), r#"pods is forbidden: User "system:node:node1" cannot deletecollection resource "pods" in API group "" in the namespace "default""#);
    table.post(
        "evict node2's",
        &path("p2a"),
        evict("p2a", Value::Null),
        (403, 403),
        r#"pods "p2a" is forbidden: node node1 can only evict pods with spec.nodeName set to itself"#,
    );
    table.delete(
        "delete node2's",
        &pods("p2a"),
        Value::Null,
        (403, 403),
        r#"pods "p2a" is forbidden: node "node1" can only delete pods with spec.nodeName set to itself"#,
    );
    table.post(
        "evict what is not there",
        &path("nopod"),
        evict("nopod", Value::Null),
        (404, 404),
        r#"pod "nopod" not found"#,
    );
    table.delete("delete what is not there", &pods("nopod"), Value::Null, (404, 404), r#"pods "nopod" not found"#);
    if table.regime == Regime::V1_36 {
        table.get("own pod that has gone", &pods("p1e"), (404, 403), r#"pods "p1e" is forbidden: User "system:node:node1" cannot get resource "pods" in API group "" in the namespace "default": no relationship found between node 'node1' and this object"#);
    }
}

pub fn pod_status(table: &mut Table<'_>) {
    let status = |name: &str| format!("{}/status", pods(name));
    table.patch(
        "annotation through status",
        &status("p1a"),
        json!({"metadata": {"annotations": {"a": "b"}}}),
        (200, 200),
        SAME,
    );
    table.patch(
        "Calico's annotation",
        &status("p1a"),
        json!({"metadata": {"annotations": {"cni.projectcalico.org/podIP": "10.244.1.2/32"}}}),
        (200, 200),
        SAME,
    );
    table.patch(
        "label through status",
        &status("p1a"),
        label("a", json!("b")),
        (403, 403),
        r#"pods "p1a" is forbidden: node "node1" cannot update labels through pod status"#,
    );
    table.patch(
        "podIP",
        &status("p1a"),
        json!({"status": {"podIP": "10.244.1.2", "podIPs": [{"ip": "10.244.1.2"}]}}),
        (200, 200),
        SAME,
    );
    table.patch("annotation, not through status", &pods("p1a"), json!({"metadata": {"annotations": {"a": "c"}}}), (403, 403), r#"pods "p1a" is forbidden: User "system:node:node1" cannot patch resource "pods" in API group "" in the namespace "default""#);
    table.patch(
        "node2's pod",
        &status("p2a"),
        json!({"metadata": {"annotations": {"a": "b"}}}),
        (403, 403),
        r#"pods "p2a" is forbidden: node "node1" can only update pod status for pods with spec.nodeName set to itself"#,
    );
}

pub fn tokens(table: &mut Table<'_>, fixture: &Fixture) {
    let uid = fixture.admin.get("/api/v1/namespaces/kube-system/pods/cn1").unwrap()["metadata"]["uid"].clone();
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "cn1", "uid": uid});
    let request = |audiences: Value, bound: Value| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": audiences, "expirationSeconds": 3600, "boundObjectRef": bound}});
    let path = |name: &str| format!("/api/v1/namespaces/kube-system/serviceaccounts/{name}/token");
    table.post("token of an own pod's account", &path("calico-node"), request(json!([]), bound.clone()), (201, 403), r#"serviceaccounts "calico-node" is forbidden: audience "" not found in pod spec volume, system:node:node1 is not authorized to request tokens for this audience"#);
    table.post(
        "not bound",
        &path("calico-node"),
        request(json!([]), Value::Null),
        (403, 403),
        r#"serviceaccounts "calico-node" is forbidden: node requested token not bound to a pod"#,
    );
    table.post("another audience", &path("calico-node"), request(json!(["nodectl"]), bound.clone()), (201, 403), r#"serviceaccounts "calico-node" is forbidden: audience "nodectl" not found in pod spec volume, system:node:node1 is not authorized to request tokens for this audience"#);
    table.post("account without a pod here", &path("default"), request(json!([]), bound), (403, 403), r#"serviceaccounts "default" is forbidden: User "system:node:node1" cannot create resource "serviceaccounts/token" in API group "" in the namespace "kube-system": no relationship found between node 'node1' and this object"#);
}
