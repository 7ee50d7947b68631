//! What a kubelet's certificate may do, request by request, before and from 1.32.
//!
//! The rows were measured on kube-apiserver 1.20.2 and 1.36.2 with Node,RBAC and NodeRestriction; code and message are theirs.

#[path = "everything_else.rs"]
mod everything_else;
#[path = "own_node.rs"]
mod own_node;
#[path = "own_pods.rs"]
mod own_pods;

use http::Method;
use nodectl_lab::apiserver::Regime;
use nodectl_lab::client::Client;
use serde_json::{Value, json};

use super::support::{self, Fixture, pod, pods};

const SAME: &str = "";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const JSON: &str = "application/json";

/// One request, what 1.20.2 and 1.36.2 answered, and the message of whichever refused.
pub struct Row {
    what: &'static str,
    method: Method,
    path: String,
    content_type: &'static str,
    body: Value,
    codes: (u16, u16),
    message: &'static str,
}

struct Table<'a> {
    node: &'a Client,
    regime: Regime,
    failures: Vec<String>,
    rows: usize,
}

impl Table<'_> {
    fn ask(&mut self, row: Row) {
        self.rows += 1;
        let body = (!row.body.is_null()).then_some((row.content_type, &row.body));
        let answer = self.node.exchange(&row.method, &row.path, body);
        let expected = if self.regime == Regime::V1_20 { row.codes.0 } else { row.codes.1 };
        let (code, message) = match &answer {
            Ok((code, _)) => (*code, ""),
            Err(error) => (error.code, error.message.as_str()),
        };
        if code != expected {
            self.failures.push(format!("{}: {code} {message}, measured {expected}", row.what));
        } else if expected >= 400 && message != row.message {
            self.failures.push(format!("{}:\n  answered {message}\n  measured {}", row.what, row.message));
        }
    }

    fn get(&mut self, what: &'static str, path: &str, codes: (u16, u16), message: &'static str) {
        let path = path.to_string();
        self.ask(Row { what, method: Method::GET, path, content_type: JSON, body: Value::Null, codes, message });
    }

    fn post(&mut self, what: &'static str, path: &str, body: Value, codes: (u16, u16), message: &'static str) {
        let path = path.to_string();
        self.ask(Row { what, method: Method::POST, path, content_type: JSON, body, codes, message });
    }

    fn put(&mut self, what: &'static str, path: &str, body: Value, codes: (u16, u16), message: &'static str) {
        let path = path.to_string();
        self.ask(Row { what, method: Method::PUT, path, content_type: JSON, body, codes, message });
    }

    fn patch(&mut self, what: &'static str, path: &str, body: Value, codes: (u16, u16), message: &'static str) {
        self.patch_as(what, path, MERGE, body, codes, message);
    }

    fn patch_as(
        &mut self,
        what: &'static str,
        path: &str,
        content_type: &'static str,
        body: Value,
        codes: (u16, u16),
        message: &'static str,
    ) {
        let path = path.to_string();
        self.ask(Row { what, method: Method::PATCH, path, content_type, body, codes, message });
    }

    fn delete(&mut self, what: &'static str, path: &str, body: Value, codes: (u16, u16), message: &'static str) {
        let path = path.to_string();
        self.ask(Row { what, method: Method::DELETE, path, content_type: JSON, body, codes, message });
    }
}

#[test]
fn every_row_before_1_32() {
    run(Regime::V1_20);
}

#[test]
fn every_row_from_1_32() {
    run(Regime::V1_36);
}

fn run(regime: Regime) {
    let Some(fixture) = Fixture::of(regime) else { return };
    let node = fixture.node("node1");
    let mut table = Table { node: &node, regime, failures: Vec::new(), rows: 0 };
    own_node::registration(&mut table, &fixture);
    prepare(&fixture);
    own_node::own_labels(&mut table, &fixture);
    own_node::own_fields(&mut table);
    own_pods::reading_pods(&mut table);
    own_pods::eviction(&mut table, &fixture);
    own_pods::pod_status(&mut table);
    everything_else::other_resources(&mut table);
    own_node::reading_nodes(&mut table);
    own_node::taints(&mut table, &fixture);
    everything_else::events(&mut table);
    everything_else::leases(&mut table, &fixture);
    own_pods::tokens(&mut table, &fixture);
    everything_else::the_rest(&mut table, &fixture);
    assert!(
        table.failures.is_empty(),
        "{regime:?}: {} of {} rows differ:\n{}",
        table.failures.len(),
        table.rows,
        table.failures.join("\n")
    );
    assert!(table.rows > 95, "only {} rows", table.rows);
}

fn node_object(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}}})
}

/// Pods on both nodes, a ConfigMap and a Secret that one of them uses and others that nobody uses.
fn prepare(fixture: &Fixture) {
    let create = |path: &str, object: Value| fixture.admin.create(path, &object).map(drop).unwrap();
    let mut first = pod("p1a", "node1");
    first["spec"]["volumes"] =
        json!([{"name": "a", "configMap": {"name": "cm-ref"}}, {"name": "b", "secret": {"secretName": "sec-ref"}}]);
    create(&pods(""), first);
    for name in ["p1b", "p1c", "p1d", "p1e"] {
        create(&pods(""), pod(name, "node1"));
    }
    create(&pods(""), pod("p2a", "node2"));
    for name in ["cm-ref", "cm-unref"] {
        create("/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": name}}));
    }
    for name in ["sec-ref", "sec-unref"] {
        create("/api/v1/namespaces/default/secrets", json!({"metadata": {"name": name}}));
    }
    create("/api/v1/namespaces/kube-system/serviceaccounts", json!({"metadata": {"name": "calico-node"}}));
    let mut agent = pod("cn1", "node1");
    agent["spec"]["serviceAccountName"] = json!("calico-node");
    create("/api/v1/namespaces/kube-system/pods", agent);
    let labels = json!({"app": "flannel"});
    let template =
        json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "lab/flanneld"}]}});
    create(
        "/apis/apps/v1/namespaces/kube-system/daemonsets",
        json!({"metadata": {"name": "kube-flannel-ds"}, "spec": {"selector": {"matchLabels": labels}, "template": template}}),
    );
    create("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", json!({"metadata": {"name": "node2"}}));
    let policy = fixture.server.regime.policy();
    create(
        &format!("/apis/policy/{policy}/namespaces/default/poddisruptionbudgets"),
        json!({"metadata": {"name": "guard"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "p1c"}}}}),
    );
}

const N1: &str = "/api/v1/nodes/node1";
const N2: &str = "/api/v1/nodes/node2";

fn label(key: &str, value: Value) -> Value {
    json!({"metadata": {"labels": {key: value}}})
}
