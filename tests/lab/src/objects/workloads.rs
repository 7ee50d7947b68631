//! What users run: Deployments, a DaemonSet with pod network, a static pod, one with hostPort, one behind a budget.

use serde_json::{Value, json};

use super::Manifest;

const APPS: &str = "/apis/apps/v1/namespaces/default";

/// The port that every pod of the lab answers on, UDP and TCP.
pub const ECHO_PORT: u16 = 7777;

fn container() -> Value {
    json!({"name": "pod", "image": "lab/pod", "ports": [{"name": "echo", "containerPort": ECHO_PORT, "protocol": "UDP"}]})
}

/// A pod's spec: short grace, so that tests need not wait.
pub fn pod_spec() -> Value {
    json!({"containers": [container()], "terminationGracePeriodSeconds": 1})
}

/// A Deployment.
pub fn deployment(name: &str, replicas: u32) -> Manifest {
    let labels = json!({"app": name});
    Manifest::new(
        format!("{APPS}/deployments"),
        json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name, "namespace": "default", "labels": labels},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod_spec()}}}),
    )
}

/// A Deployment and a Service in front of it.
pub fn web(replicas: u32) -> Vec<Manifest> {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "echo", "port": 80, "targetPort": ECHO_PORT, "protocol": "TCP"}]}});
    vec![deployment("web", replicas), Manifest::new("/api/v1/namespaces/default/services", service)]
}

/// A Deployment behind a budget that keeps `available` of its pods.
pub fn guarded(name: &str, replicas: u32, available: u32) -> Vec<Manifest> {
    vec![deployment(name, replicas), budget(name, &json!({"minAvailable": available}))]
}

/// A budget for the pods of a Deployment: `{"minAvailable": 2}` or `{"maxUnavailable": 1}`.
pub fn budget(name: &str, bound: &Value) -> Manifest {
    let mut spec = bound.clone();
    spec["selector"] = json!({"matchLabels": {"app": name}});
    Manifest::new(
        "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": name, "namespace": "default"}, "spec": spec}),
    )
}

/// A DaemonSet with pod network: eviction does not move it, and it tolerates the cordon.
pub fn daemon(name: &str) -> Manifest {
    let labels = json!({"app": name});
    Manifest::new(
        format!("{APPS}/daemonsets"),
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name, "namespace": "default"},
            "spec": {"selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod_spec()}}}),
    )
}

/// A Deployment of one pod that takes a port of its node.
pub fn host_port(name: &str, port: u16) -> Manifest {
    let mut manifest = deployment(name, 1);
    manifest.object["spec"]["template"]["spec"]["containers"][0]["ports"] = ports(port);
    manifest
}

/// A DaemonSet whose pods take a port of their nodes.
pub fn daemon_with_port(name: &str, port: u16) -> Manifest {
    let mut manifest = daemon(name);
    manifest.object["spec"]["template"]["spec"]["containers"][0]["ports"] = ports(port);
    manifest
}

/// The echo's ports, as ports of the node.
fn ports(port: u16) -> Value {
    json!([
        {"name": "echo", "containerPort": ECHO_PORT, "hostPort": port, "protocol": "TCP"},
        {"name": "echo-udp", "containerPort": ECHO_PORT, "hostPort": port, "protocol": "UDP"}])
}

/// A pod without a controller, on a node of its own choice.
pub fn bare(name: &str, node: Option<&str>) -> Manifest {
    let mut spec = pod_spec();
    if let Some(node) = node {
        spec["nodeName"] = json!(node);
    }
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}}});
    Manifest::new("/api/v1/namespaces/default/pods", pod)
}

/// The text of a file for the kubelet's manifest directory.
pub fn static_pod(name: &str) -> String {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": pod_spec(),
        "metadata": {"name": name, "namespace": "kube-system", "labels": {"app": name}}});
    serde_json::to_string_pretty(&pod).unwrap_or_default()
}
