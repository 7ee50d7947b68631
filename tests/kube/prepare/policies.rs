//! Network policies that would begin to be enforced, and webhooks that would be cut off: named, and the former asked about.

use nodectl_lab::client::Patch;
use serde_json::json;

use super::fixture::Cluster;
use super::support::pod;

const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";

fn policy(name: &str, selector: &serde_json::Value) -> serde_json::Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "default"}, "spec": {"podSelector": selector}})
}

#[test]
fn policies_are_listed_with_their_pods_and_have_to_be_accepted() {
    let cluster = Cluster::start(1);
    for index in 0..6 {
        let name = format!("policy-{index}");
        let selector = if index == 0 { json!({"matchLabels": {"app": "web"}}) } else { json!({}) };
        cluster.admin().create(POLICIES, &policy(&name, &selector)).unwrap();
    }
    for name in ["web", "db"] {
        cluster.admin().create("/api/v1/namespaces/default/pods", &pod(name, "node1")).unwrap();
    }
    let refused = cluster.run(&["prepare"]).exits(3);
    assert_eq!(refused.refusals(), ["network-policies"]);
    // The check names a few, the notes all.
    let notes = refused.json()["notes"].as_array().unwrap().clone();
    assert_eq!(notes.len(), 6, "{notes:?}");
    assert_eq!(notes[0], "begins to be enforced: default/policy-0 (1 pod)");
    assert_eq!(notes[5], "begins to be enforced: default/policy-5 (2 pods)");
    cluster.run(&["prepare", "--dry-run"]).exits(3);
    let config = cluster.fixture.path("config.toml");
    std::fs::write(&config, "[cluster]\naccept_policy_change = true\n").unwrap();
    cluster.run(&["prepare", "--dry-run", "--config", config.to_str().unwrap()]).exits(0);
    cluster.run(&["prepare", "--accept-policy-change"]).exits(0);
}

#[test]
fn webhooks_that_one_node_answers_are_named() {
    let cluster = Cluster::start(2);
    let admin = cluster.admin();
    let service = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {"selector": {"app": name}, "ports": [{"port": 443}]}})
    };
    for (name, node) in [("alone", "node1"), ("guarded", "node1"), ("guarded-too", "node2")] {
        let mut pod = pod(name, node);
        pod["metadata"]["labels"]["app"] = json!(name.trim_end_matches("-too"));
        admin.create("/api/v1/namespaces/default/pods", &pod).unwrap();
        let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        admin.patch(&format!("/api/v1/namespaces/default/pods/{name}/status"), Patch::Merge, &ready).unwrap();
    }
    let hook = |name: &str, service: &str, policy: &str| {
        json!({"name": format!("{name}.example.com"), "failurePolicy": policy, "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"namespace": "default", "name": service}, "caBundle": ""},
            "rules": [{"apiGroups": ["example.com"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["widgets"]}]})
    };
    for name in ["alone", "guarded"] {
        admin.create("/api/v1/namespaces/default/services", &service(name)).unwrap();
    }
    let configuration = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "hooks"},
        "webhooks": [hook("a", "alone", "Fail"), hook("b", "guarded", "Fail"), hook("c", "alone", "Ignore")]});
    admin.create("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", &configuration).unwrap();
    let shown = cluster.run(&["prepare", "--dry-run"]).exits(0).json();
    let check = shown["checks"].as_array().unwrap().iter().find(|c| c["name"] == "admission-webhooks").unwrap().clone();
    let finding = check["finding"].as_str().unwrap();
    assert!(finding.contains("ValidatingWebhookConfiguration hooks (Service default/alone, on node1)"), "{finding}");
    assert!(!finding.contains("guarded") && check["outcome"] == "warning", "{check}");
}
