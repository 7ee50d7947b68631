//! A kubelet and Nodes: its own, and the others.

use serde_json::{Value, json};

use super::support::Fixture;
use super::{N1, N2, SAME, STRATEGIC, Table, label, node_object};

pub fn registration(table: &mut Table<'_>, fixture: &Fixture) {
    table.post("register itself", "/api/v1/nodes", node_object("node1"), (201, 201), SAME);
    table.post(
        "register another",
        "/api/v1/nodes",
        node_object("nodex"),
        (403, 403),
        r#"nodes "nodex" is forbidden: node "node1" is not allowed to modify node "nodex""#,
    );
    // Measured with the second node's certificate; creating answers 201 (the list of answers says 200 for a repeated POST).
    let mut second = node_object("node2");
    second["spec"] = json!({"unschedulable": true, "taints": [{"key": "a", "effect": "NoSchedule"}]});
    fixture.node("node2").create("/api/v1/nodes", &second).unwrap();
}

pub fn own_labels(table: &mut Table<'_>, fixture: &Fixture) {
    const MIGRATION: &str = "projectcalico.org/node-network-during-migration";
    table.patch_as("label, strategic", N1, STRATEGIC, label(MIGRATION, json!("flannel")), (200, 200), SAME);
    table.patch("label, merge", N1, label(MIGRATION, json!("none")), (200, 200), SAME);
    table.patch("label, removed", N1, label(MIGRATION, Value::Null), (200, 200), SAME);
    let apply =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1", "labels": {MIGRATION: "calico"}}});
    table.patch_as(
        "label, server-side apply",
        &format!("{N1}?fieldManager=test"),
        "application/apply-patch+yaml",
        apply,
        (200, 200),
        SAME,
    );
    let test = json!([{"op": "test", "path": "/metadata/resourceVersion", "value": "1"}, {"op": "add", "path": "/metadata/labels/x", "value": "y"}]);
    table.patch_as(
        "json-patch, failing test",
        N1,
        "application/json-patch+json",
        test,
        (422, 422),
        "the server rejected our request due to an error in our request",
    );
    let mut stale = label(MIGRATION, json!("x"));
    stale["metadata"]["resourceVersion"] = json!("1");
    table.patch("stale resourceVersion", N1, stale, (409, 409), r#"Operation cannot be fulfilled on nodes "node1": the object has been modified; please apply your changes to the latest version and try again"#);
    let mut whole = fixture.admin.get(N1).unwrap();
    whole["metadata"]["labels"][MIGRATION] = json!("flannel");
    table.put("PUT with a changed label", N1, whole, (200, 200), SAME);
    table.patch("label through status", &format!("{N1}/status"), label(MIGRATION, json!("none")), (200, 200), SAME);
    table.patch(
        "label of node2",
        N2,
        label(MIGRATION, json!("none")),
        (403, 403),
        r#"nodes "node2" is forbidden: node "node1" is not allowed to modify node "node2""#,
    );
    for (key, message) in [
        (
            "node-restriction.kubernetes.io/x",
            r#"nodes "node1" is forbidden: is not allowed to modify labels: node-restriction.kubernetes.io/x"#,
        ),
        (
            "node-role.kubernetes.io/worker",
            r#"nodes "node1" is forbidden: is not allowed to modify labels: node-role.kubernetes.io/worker"#,
        ),
        ("kubernetes.io/foo", r#"nodes "node1" is forbidden: is not allowed to modify labels: kubernetes.io/foo"#),
        ("k8s.io/foo", r#"nodes "node1" is forbidden: is not allowed to modify labels: k8s.io/foo"#),
        ("foo.k8s.io/x", r#"nodes "node1" is forbidden: is not allowed to modify labels: foo.k8s.io/x"#),
    ] {
        table.patch(key, N1, label(key, json!("y")), (403, 403), message);
    }
    for key in
        ["node.kubernetes.io/foo", "kubelet.kubernetes.io/foo", "topology.kubernetes.io/zone", "calico.example/x"]
    {
        table.patch(key, N1, label(key, json!("y")), (200, 200), SAME);
    }
}

pub fn own_fields(table: &mut Table<'_>) {
    const OTHER: &str = r#"nodes "node2" is forbidden: node "node1" is not allowed to modify node "node2""#;
    table.patch("unschedulable", N1, json!({"spec": {"unschedulable": true}}), (200, 200), SAME);
    table.patch("schedulable", N1, json!({"spec": {"unschedulable": null}}), (200, 200), SAME);
    table.patch("node2 unschedulable", N2, json!({"spec": {"unschedulable": true}}), (403, 403), OTHER);
    table.patch("annotation", N1, json!({"metadata": {"annotations": {"a": "b"}}}), (200, 200), SAME);
    table.patch(
        "flannel's annotation",
        N1,
        json!({"metadata": {"annotations": {"flannel.alpha.coreos.com/public-ip": "1.2.3.4"}}}),
        (200, 200),
        SAME,
    );
    table.patch("node2's annotation", N2, json!({"metadata": {"annotations": {"a": "b"}}}), (403, 403), OTHER);
    let condition =
        json!({"status": {"conditions": [{"type": "NetworkUnavailable", "status": "False", "reason": "x"}]}});
    table.patch_as("condition", &format!("{N1}/status"), STRATEGIC, condition, (200, 200), SAME);
    table.patch(
        "podCIDR, unset",
        N1,
        json!({"spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]}}),
        (200, 200),
        SAME,
    );
    table.delete("delete own Node", N1, Value::Null, (403, 403), r#"nodes "node1" is forbidden: User "system:node:node1" cannot delete resource "nodes" in API group "" at the cluster scope"#);
    table.patch("finalizer", N1, json!({"metadata": {"finalizers": ["a.example/b"]}}), (200, 200), SAME);
    table.patch("finalizer, removed", N1, json!({"metadata": {"finalizers": null}}), (200, 200), SAME);
}

pub fn reading_nodes(table: &mut Table<'_>) {
    const ALL: &str = r#"nodes is forbidden: User "system:node:node1" cannot list resource "nodes" in API group "" at the cluster scope: node 'node1' cannot read all nodes, only its own Node object"#;
    table.get("own node", N1, (200, 200), SAME);
    table.get("node2", N2, (200, 403), r#"nodes "node2" is forbidden: User "system:node:node1" cannot get resource "nodes" in API group "" at the cluster scope: node 'node1' cannot read 'node2', only its own Node object"#);
    table.get("all nodes", "/api/v1/nodes", (200, 403), ALL);
    table.get("own node by field", "/api/v1/nodes?fieldSelector=metadata.name%3Dnode1", (200, 200), SAME);
    table.get("nodes by label", "/api/v1/nodes?labelSelector=a%3Db", (200, 403), ALL);
    table.get("watch all nodes", "/api/v1/nodes?watch=1&timeoutSeconds=1", (200, 403), r#"nodes is forbidden: User "system:node:node1" cannot watch resource "nodes" in API group "" at the cluster scope: node 'node1' cannot read all nodes, only its own Node object"#);
}

pub fn taints(table: &mut Table<'_>, fixture: &Fixture) {
    const REFUSED: &str = r#"nodes "node1" is forbidden: node "node1" is not allowed to modify taints"#;
    table.patch("taint", N1, json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}), (403, 403), REFUSED);
    table.patch_as(
        "taint, strategic",
        N1,
        STRATEGIC,
        json!({"spec": {"taints": [{"key": "a", "effect": "NoExecute"}]}}),
        (403, 403),
        REFUSED,
    );
    let taint = json!({"spec": {"taints": [{"key": "admin", "effect": "NoSchedule"}]}});
    fixture.admin.patch(N1, nodectl_lab::client::Patch::Merge, &taint).unwrap();
    table.patch("the administrator's taint, removed", N1, json!({"spec": {"taints": null}}), (403, 403), REFUSED);
    table.patch("unschedulable beside it", N1, json!({"spec": {"unschedulable": true}}), (200, 200), SAME);
}
