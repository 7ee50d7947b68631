//! A kubelet and everything else.

use base64::Engine;
use serde_json::{Value, json};

use super::support::{Fixture, pod, pods};
use super::{N1, SAME, Table, label};

pub fn other_resources(table: &mut Table<'_>) {
    const SET: &str = "/apis/apps/v1/namespaces/kube-system/daemonsets/kube-flannel-ds";
    let core = |rest: &str| format!("/api/v1/namespaces/default/{rest}");
    table.get("get DaemonSet", SET, (403, 403), r#"daemonsets.apps "kube-flannel-ds" is forbidden: User "system:node:node1" cannot get resource "daemonsets" in API group "apps" in the namespace "kube-system""#);
    table.get("list DaemonSets", "/apis/apps/v1/daemonsets", (403, 403), r#"daemonsets.apps is forbidden: User "system:node:node1" cannot list resource "daemonsets" in API group "apps" at the cluster scope"#);
    table.patch("patch DaemonSet", SET, label("a", json!("b")), (403, 403), r#"daemonsets.apps "kube-flannel-ds" is forbidden: User "system:node:node1" cannot patch resource "daemonsets" in API group "apps" in the namespace "kube-system""#);
    table.get("unused ConfigMap", &core("configmaps/cm-unref"), (403, 403), r#"configmaps "cm-unref" is forbidden: User "system:node:node1" cannot get resource "configmaps" in API group "" in the namespace "default": no relationship found between node 'node1' and this object"#);
    table.get("used ConfigMap", &core("configmaps/cm-ref"), (200, 200), SAME);
    table.get("list ConfigMaps", &core("configmaps"), (403, 403), r#"configmaps is forbidden: User "system:node:node1" cannot list resource "configmaps" in API group "" in the namespace "default": No Object name found"#);
    table.patch("patch used ConfigMap", &core("configmaps/cm-ref"), label("a", json!("b")), (403, 403), r#"configmaps "cm-ref" is forbidden: User "system:node:node1" cannot patch resource "configmaps" in API group "" in the namespace "default": can only read resources of this type"#);
    table.post("create ConfigMap", &core("configmaps"), json!({"metadata": {"name": "x"}}), (403, 403), r#"configmaps is forbidden: User "system:node:node1" cannot create resource "configmaps" in API group "" in the namespace "default": can only read resources of this type"#);
    table.get("used Secret", &core("secrets/sec-ref"), (200, 200), SAME);
    table.get("unused Secret", &core("secrets/sec-unref"), (403, 403), r#"secrets "sec-unref" is forbidden: User "system:node:node1" cannot get resource "secrets" in API group "" in the namespace "default": no relationship found between node 'node1' and this object"#);
    table.get("list Services", "/api/v1/services", (200, 200), SAME);
    table.get("list Namespaces", "/api/v1/namespaces", (403, 403), r#"namespaces is forbidden: User "system:node:node1" cannot list resource "namespaces" in API group "" at the cluster scope"#);
    table.get("list EndpointSlices", "/apis/discovery.k8s.io/v1/endpointslices", (403, 403), r#"endpointslices.discovery.k8s.io is forbidden: User "system:node:node1" cannot list resource "endpointslices" in API group "discovery.k8s.io" at the cluster scope"#);
    table.get("list definitions", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", (403, 403), r#"customresourcedefinitions.apiextensions.k8s.io is forbidden: User "system:node:node1" cannot list resource "customresourcedefinitions" in API group "apiextensions.k8s.io" at the cluster scope"#);
    table.get("list pools", "/apis/crd.projectcalico.org/v1/ippools", (403, 403), r#"ippools.crd.projectcalico.org is forbidden: User "system:node:node1" cannot list resource "ippools" in API group "crd.projectcalico.org" at the cluster scope"#);
    table.get("list budgets", "/apis/policy/v1/poddisruptionbudgets", (403, 403), r#"poddisruptionbudgets.policy is forbidden: User "system:node:node1" cannot list resource "poddisruptionbudgets" in API group "policy" at the cluster scope"#);
    table.get("list RuntimeClasses", "/apis/node.k8s.io/v1/runtimeclasses", (200, 200), SAME);
}

pub fn events(table: &mut Table<'_>) {
    let event = |name: &str, kind: &str, involved: &str| json!({"metadata": {"name": name}, "involvedObject": {"kind": kind, "name": involved}, "reason": "Test", "message": "x", "type": "Normal", "count": 1});
    let mut elsewhere = event("e3", "Pod", "cn1");
    let other = "/api/v1/namespaces/kube-system/events";
    table.post(
        "event in another namespace than its object",
        other,
        elsewhere.clone(),
        (422, 422),
        r#"Event "e3" is invalid: involvedObject.namespace: Invalid value: "": does not match event.namespace"#,
    );
    elsewhere["involvedObject"]["namespace"] = json!("kube-system");
    let core = "/api/v1/namespaces/default/events";
    table.post("event about itself", core, event("ezlg82", "Node", "node1"), (201, 201), SAME);
    table.post("event about node2", core, event("e2", "Node", "node2"), (201, 201), SAME);
    table.post("event about another pod", other, elsewhere, (201, 201), SAME);
    table.patch("count it up", &format!("{core}/ezlg82"), json!({"count": 2}), (200, 200), SAME);
    table.get("read it", &format!("{core}/ezlg82"), (403, 403), r#"events "ezlg82" is forbidden: User "system:node:node1" cannot get resource "events" in API group "" in the namespace "default""#);
    table.get("list events", "/api/v1/events", (403, 403), r#"events is forbidden: User "system:node:node1" cannot list resource "events" in API group "" at the cluster scope"#);
    table.post("new kind of event", "/apis/events.k8s.io/v1/namespaces/default/events", json!({"metadata": {"name": "e4"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal", "reason": "Test", "action": "Test",
        "reportingController": "example.com/test", "reportingInstance": "node1", "regarding": {"kind": "Node", "name": "node1"}}), (403, 201), r#"events.events.k8s.io is forbidden: User "system:node:node1" cannot create resource "events" in API group "events.k8s.io" in the namespace "default""#);
}

pub fn leases(table: &mut Table<'_>, fixture: &Fixture) {
    const BASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let lease = |name: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {"holderIdentity": "node1"}});
    table.post("own lease", BASE, lease("node1"), (201, 201), SAME);
    table.patch("patch it", &format!("{BASE}/node1"), json!({"spec": {"leaseDurationSeconds": 40}}), (200, 200), SAME);
    table.patch(
        "annotate it",
        &format!("{BASE}/node1"),
        json!({"metadata": {"annotations": {"a": "b"}}}),
        (200, 200),
        SAME,
    );
    let whole = fixture.admin.get(&format!("{BASE}/node1")).unwrap();
    table.put("replace it", &format!("{BASE}/node1"), whole, (200, 200), SAME);
    table.post("another name", BASE, lease("migration-lock"), (403, 403), r#"leases.coordination.k8s.io "migration-lock" is forbidden: can only access node lease with the same name as the requesting node"#);
    table.post("node2's name", BASE, lease("node2"), (403, 403), r#"leases.coordination.k8s.io "node2" is forbidden: can only access node lease with the same name as the requesting node"#);
    table.get("node2's lease", &format!("{BASE}/node2"), (403, 403), r#"leases.coordination.k8s.io "node2" is forbidden: User "system:node:node1" cannot get resource "leases" in API group "coordination.k8s.io" in the namespace "kube-node-lease": can only access node lease with the same name as the requesting node"#);
    table.get("a lease of no node", &format!("{BASE}/migration-lock"), (403, 403), r#"leases.coordination.k8s.io "migration-lock" is forbidden: User "system:node:node1" cannot get resource "leases" in API group "coordination.k8s.io" in the namespace "kube-node-lease": can only access node lease with the same name as the requesting node"#);
    table.patch("patch node2's", &format!("{BASE}/node2"), json!({"spec": {}}), (403, 403), r#"leases.coordination.k8s.io "node2" is forbidden: User "system:node:node1" cannot patch resource "leases" in API group "coordination.k8s.io" in the namespace "kube-node-lease": can only access node lease with the same name as the requesting node"#);
    table.get("list leases", BASE, (403, 403), r#"leases.coordination.k8s.io is forbidden: User "system:node:node1" cannot list resource "leases" in API group "coordination.k8s.io" in the namespace "kube-node-lease": can only get, create, update, patch, or delete a node lease"#);
    table.delete("delete own lease", &format!("{BASE}/node1"), Value::Null, (200, 200), SAME);
    table.post("own name elsewhere", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases", lease("node1"), (403, 403), r#"leases.coordination.k8s.io is forbidden: User "system:node:node1" cannot create resource "leases" in API group "coordination.k8s.io" in the namespace "kube-system": can only access leases in the "kube-node-lease" system namespace"#);
}

pub fn the_rest(table: &mut Table<'_>, fixture: &Fixture) {
    let review = |kind: &str| json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": {"user": "x", "resourceAttributes": {"verb": "get", "resource": "pods"}}});
    table.post(
        "may I",
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        review("SelfSubjectAccessReview"),
        (201, 201),
        SAME,
    );
    table.post(
        "what may I",
        "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
        json!({"spec": {"namespace": "default"}}),
        (201, 201),
        SAME,
    );
    table.post(
        "may they",
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        review("SubjectAccessReview"),
        (201, 201),
        SAME,
    );
    table.post(
        "who am I",
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}),
        (403, 201),
        r#"selfsubjectreviews.authentication.k8s.io is forbidden: User "system:node:node1" cannot create resource "selfsubjectreviews" in API group "authentication.k8s.io" at the cluster scope"#,
    );
    table.post("ordinary pod", &pods(""), pod("direct", "node1"), (403, 403), r#"pods "direct" is forbidden: pod does not have "kubernetes.io/config.mirror" annotation, node "node1" can only create mirror pods"#);
    let mut mirror = pod("mirror", "node1");
    let uid = fixture.admin.get(N1).unwrap()["metadata"]["uid"].clone();
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    mirror["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "Node", "name": "node1", "uid": uid, "controller": true}]);
    table.post("mirror pod", &pods(""), mirror, (201, 201), SAME);
    let request = json!({"metadata": {"name": "csr"}, "spec": {"signerName": "kubernetes.io/kube-apiserver-client-kubelet",
        "request": signing_request(), "usages": ["digital signature", "client auth"]}});
    table.post("signing request", "/apis/certificates.k8s.io/v1/certificatesigningrequests", request, (201, 201), SAME);
    table.get("readyz", "/readyz", (200, 200), SAME);
    table.get("version", "/version", (200, 200), SAME);
}

/// As a kubelet sends it: PEM, in base64 once more.
fn signing_request() -> String {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:node1");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    let pem = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    base64::engine::general_purpose::STANDARD.encode(pem)
}
