//! The API client against a small TLS server: refusals, repetitions, pages, evictions; its credentials in a file of their own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use nodectl::host::kube::{Evictee, Eviction, Kube, Patch, Write};
use serde_json::{Value, json};
use tempfile::TempDir;

#[path = "host_kube/credentials.rs"]
mod credentials;
#[path = "host_kube/secrets.rs"]
mod secrets;
#[path = "support/tls_server.rs"]
mod tls_server;
#[path = "host_kube/watches.rs"]
mod watches;
#[path = "host_kube/ways.rs"]
mod ways;
use tls_server::{Answer, Authority, Identity, Seen, Server, base64, kubeconfig, ok, status};

const SERVER: &str = "127.0.0.1";

fn cluster(server: &Server, authority: &Authority) -> Value {
    json!({"server": server.url(), "certificate-authority-data": base64(&authority.pem)})
}

fn certificate(identity: &Identity, key: &str) -> Value {
    json!({"client-certificate-data": base64(&identity.certificate), "client-key-data": base64(key)})
}

/// A server and a client of it with a certificate of node n1.
fn pair(answer: impl Fn(usize, &Seen) -> Answer + Send + Sync + 'static) -> (Server, Kube, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    let node = authority.issue("system:node:n1", &[]);
    let server = Server::start(&authority, SERVER, answer);
    let path = kubeconfig(directory.path(), cluster(&server, &authority), certificate(&node, &node.key));
    (server, Kube::from_file(&path, None).unwrap(), directory)
}

#[test]
fn too_many_requests_are_repeated_when_the_server_says() {
    let (server, kube, _directory) = pair(|n, _| match n {
        0 => (429, vec!["Retry-After: 1".to_owned()], "too many".to_owned()),
        1 => (503, Vec::new(), "<html>no</html>".to_owned()),
        _ => ok(json!({})),
    });
    let before = Instant::now();
    kube.get("/api").unwrap();
    assert!(before.elapsed() >= Duration::from_secs(1));
    assert_eq!(server.seen().len(), 3);
}

#[test]
fn patience_ends() {
    let (server, kube, _directory) = pair(|_, _| (503, Vec::new(), String::new()));
    let before = Instant::now();
    let error = kube.patience(Duration::from_millis(700)).get("/api").unwrap_err();
    assert!(before.elapsed() < Duration::from_secs(2));
    assert!(error.is_unreachable() && server.seen().len() > 1);
}

#[test]
fn other_refusals_are_not_repeated_and_read_as_a_sentence() {
    let message = "nodes \"n2\" is forbidden: node \"n1\" is not allowed to modify node \"n2\"";
    let (server, kube, _directory) = pair(move |_, _| status(403, "Forbidden", message));
    let error = kube.patch("/api/v1/nodes/n2", Patch::Merge, &json!({}), Write::REAL).unwrap_err();
    let wanted =
        format!("the API server {} refused to change /api/v1/nodes/n2: {message} (403 Forbidden)", server.url());
    assert!(error.is_forbidden() && error.message == wanted, "{error}");
    assert_eq!(server.seen().len(), 1);
    let (server, kube, _directory) = pair(|_, _| (422, Vec::new(), "x".repeat(5000)));
    assert!(kube.get("/api").unwrap_err().message.len() < 1400);
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn an_error_that_may_pass_is_tried_again_a_few_times_and_not_for_ever() {
    let lost = || status(500, "InternalError", "etcdserver: leader changed");
    let (server, kube, _directory) = pair(move |n, _| if n < 2 { lost() } else { ok(json!({})) });
    kube.get("/api").unwrap();
    assert_eq!(server.seen().len(), 3);
    let (server, kube, _directory) = pair(move |_, _| lost());
    assert_eq!(kube.get("/api").unwrap_err().code, Some(500));
    assert_eq!(server.seen().len(), 3);
    // What may not be done twice is not.
    let (server, kube, _directory) = pair(move |_, _| lost());
    assert_eq!(kube.post("/x", &json!({}), Write::REAL).unwrap_err().code, Some(500));
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn a_conflict_is_tried_again_where_no_version_was_named() {
    let conflict = || status(409, "Conflict", "the object has been modified");
    let (server, kube, _directory) = pair(move |n, _| if n < 2 { conflict() } else { ok(json!({})) });
    kube.patch("/x", Patch::Merge, &json!({"spec": {"unschedulable": true}}), Write::REAL).unwrap();
    assert_eq!(server.seen().len(), 3);
    let (server, kube, _directory) = pair(move |_, _| conflict());
    let swap = json!({"metadata": {"resourceVersion": "7"}});
    assert!(kube.patch("/x", Patch::Merge, &swap, Write::REAL).unwrap_err().is_conflict());
    assert!(kube.patch("/x", Patch::Apply, &json!({}), Write::REAL).unwrap_err().is_conflict());
    assert_eq!(server.seen().len(), 2, "what was seen is not what is there, or somebody else's field");
}

#[test]
fn a_broken_connection_repeats_only_what_may_be_repeated() {
    let (server, kube, _directory) = pair(|n, _| if n == 0 { (0, Vec::new(), String::new()) } else { ok(json!({})) });
    kube.patch("/x", Patch::Merge, &json!({}), Write::REAL).unwrap();
    assert_eq!(server.seen().len(), 2);
    let (server, kube, _directory) = pair(|_, _| (0, Vec::new(), String::new()));
    let error = kube.post("/x", &json!({}), Write::REAL).unwrap_err();
    assert!(error.is_unreachable(), "{error}");
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn a_server_that_is_not_there_is_unreachable() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let cluster =
        json!({"server": format!("https://127.0.0.1:{port}"), "certificate-authority-data": base64(&authority.pem)});
    let path = kubeconfig(directory.path(), cluster, json!({"token": "hush"}));
    let kube = Kube::from_file(&path, None).unwrap().patience(Duration::from_millis(300));
    let error = kube.get("/api").unwrap_err();
    assert!(error.is_unreachable() && error.code.is_none(), "{error}");
    assert!(error.message.contains("Connection refused"), "{error}");
    assert!(!format!("{kube:?} {error:?}").contains("hush"));
}

#[test]
fn lists_are_read_page_by_page_and_again_when_the_token_expired() {
    let (server, kube, _directory) = pair(|n, seen| match n {
        0 => ok(json!({"metadata": {"continue": "a/b="}, "items": [1, 2]})),
        1 => {
            assert!(seen.target.contains("continue=a%2Fb%3D"), "{}", seen.target);
            status(410, "Expired", "too old")
        }
        2 => ok(json!({"metadata": {"continue": "c"}, "items": [1, 2]})),
        _ => ok(json!({"metadata": {}, "items": [3]})),
    });
    let items = kube.list("/api/v1/pods", &[("fieldSelector", "spec.nodeName=n1")]).unwrap();
    assert_eq!(items, [json!(1), json!(2), json!(3)]);
    assert_eq!(server.seen().len(), 4);
    assert!(server.seen()[0].target.starts_with("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1&limit=500"));
}

#[test]
fn listed_objects_say_what_they_are() {
    let (_server, kube, _directory) = pair(|_, _| {
        ok(json!({"kind": "NodeList", "apiVersion": "v1", "metadata": {},
            "items": [{"metadata": {"name": "n1"}}, {"kind": "Other", "apiVersion": "x/v2"}]}))
    });
    let items = kube.list("/api/v1/nodes", &[]).unwrap();
    assert_eq!(items[0], json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n1"}}));
    assert_eq!(items[1], json!({"kind": "Other", "apiVersion": "x/v2"}));
}

#[test]
fn writes_name_us_and_can_be_rehearsed() {
    let (server, kube, _directory) = pair(|_, _| ok(json!({})));
    let write = Write { dry_run: true, force: true, strict: true };
    kube.patch("/x", Patch::Apply, &json!({"a": 1}), write).unwrap();
    kube.delete("/x", Some(&json!({"preconditions": {"uid": "u"}})), Write::REAL).unwrap();
    kube.delete("/x", None, Write::REAL).unwrap();
    let seen = server.seen();
    assert_eq!(seen[0].target, "/x?fieldManager=nodectl&dryRun=All&force=true&fieldValidation=Strict");
    assert_eq!(seen[0].header("content-type"), Some("application/apply-patch+yaml"));
    assert!(seen[0].header("user-agent").unwrap().starts_with("nodectl/"));
    assert_eq!((seen[0].method.as_str(), seen[0].body.as_str()), ("PATCH", r#"{"a":1}"#));
    assert_eq!(seen[1].body, r#"{"preconditions":{"uid":"u"}}"#);
    assert_eq!((seen[2].method.as_str(), seen[2].body.as_str()), ("DELETE", ""));
}

/// What `/api/v1` says of evictions.
fn discovery(version: &str) -> Answer {
    ok(json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
        {"name": "pods", "kind": "Pod", "namespaced": true},
        {"name": "pods/eviction", "kind": "Eviction", "group": "policy", "version": version, "namespaced": true}]}))
}

#[test]
fn evictions_speak_the_servers_version_and_tell_budgets_from_errors() {
    let budget = json!({"kind": "Status", "message": "Cannot evict pod", "reason": "TooManyRequests", "code": 429,
        "details": {"causes": [{"reason": "DisruptionBudget", "message": "The disruption budget web needs 2 healthy pods"}]}});
    let (server, kube, _directory) = pair(move |n, seen| match n {
        0 => {
            assert_eq!(seen.target, "/api/v1");
            discovery("v1beta1")
        }
        1 => {
            assert!(seen.body.contains("policy/v1beta1") && seen.body.contains(r#""uid":"u1""#), "{}", seen.body);
            (201, Vec::new(), "{}".to_owned())
        }
        2 => (429, Vec::new(), budget.to_string()),
        3 => status(
            500,
            "",
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ),
        4 => status(404, "NotFound", "gone"),
        _ => status(422, "Invalid", "no"),
    });
    let pod = Evictee { namespace: "d", name: "web-0", uid: "u1", grace_seconds: None };
    assert_eq!(kube.evict(pod, Write::REAL).unwrap(), Eviction::Accepted);
    let why = kube.may_evict("d", "web-0", "u1").unwrap().unwrap();
    assert_eq!(why, "PDB d/web allows no disruption now: it needs 2 healthy pods");
    assert!(kube.may_evict("d", "web-0", "u1").unwrap().unwrap().contains("more than one"));
    assert_eq!(kube.evict(pod, Write::REAL).unwrap(), Eviction::Gone);
    assert_eq!(kube.evict(pod, Write::REAL).unwrap_err().code, Some(422));
    let seen = server.seen();
    assert!(seen[2].target.ends_with("/eviction?dryRun=All") && seen[2].body.contains(r#""dryRun":["All"]"#));
    assert_eq!(seen.len(), 6, "the server is asked once what it speaks");
}

#[test]
fn a_newer_server_gets_the_newer_eviction_and_one_without_gets_none() {
    let (server, kube, _directory) = pair(|n, _| if n == 0 { discovery("v1") } else { ok(json!({})) });
    let pod = Evictee { namespace: "d", name: "web-0", uid: "u1", grace_seconds: Some(0) };
    kube.evict(pod, Write::REAL).unwrap();
    let body: Value = serde_json::from_str(&server.seen()[1].body).unwrap();
    assert_eq!((&body["apiVersion"], &body["deleteOptions"]["gracePeriodSeconds"]), (&json!("policy/v1"), &json!(0)));
    let (server, kube, _directory) = pair(|_, _| ok(json!({"resources": []})));
    let error = kube.evict(pod, Write::REAL).unwrap_err();
    assert!(error.message.contains("offers no evictions") && server.seen().len() == 1, "{error}");
}

#[test]
fn the_view_of_the_node_holds_its_pods() {
    let (server, kube, _directory) = pair(|_, seen| match seen.target.split('?').next().unwrap() {
        "/api/v1/nodes/n1" => ok(json!({
            "metadata": {"name": "n1", "uid": "nu", "labels": {"a": "b"}, "annotations": {"x": "y", "nodectl.io/prepared": "{}"}},
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"], "unschedulable": true},
            "status": {
                "addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "192.168.77.1"}],
                "conditions": [{"type": "NetworkUnavailable", "status": "False", "reason": "FlannelIsUp"}],
            },
        })),
        _ => ok(json!({"metadata": {}, "items": [{
            "metadata": {"namespace": "d", "name": "p", "uid": "pu", "deletionTimestamp": "2026-01-01T00:00:00Z",
                "annotations": {"kubernetes.io/config.mirror": "h"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": "web", "controller": true}]},
            "spec": {"volumes": [{"name": "v", "emptyDir": {}}],
                "initContainers": [{"image": "i:1"}],
                "containers": [{"image": "c:1", "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81}]}]},
            "status": {"phase": "Running", "podIP": "10.244.1.5", "podIPs": [{"ip": "10.244.1.5"}, {"ip": "fd00:1::5"}],
                "conditions": [{"type": "Ready", "status": "True"}]},
        }]})),
    });
    let view = kube.cluster_view().unwrap();
    assert_eq!((view.node.as_str(), view.uid.as_str(), view.unschedulable), ("n1", "nu", true));
    assert_eq!((view.pod_cidrs.len(), view.addresses.len(), view.annotations.len()), (2, 1, 1));
    assert!(view.prepared.unwrap().unwrap_err().contains("no version"));
    assert_eq!(view.conditions["NetworkUnavailable"], ("False".to_owned(), "FlannelIsUp".to_owned()));
    let pod = &view.pods[0];
    assert_eq!(pod.controller, Some(("ReplicaSet".to_owned(), "web".to_owned())));
    assert!(pod.mirror && pod.local_storage && pod.terminating && pod.ready && !pod.host_network);
    assert_eq!((pod.host_ports.clone(), pod.ips.len()), (vec![8080], 2));
    assert_eq!(pod.images, ["c:1", "i:1"]);
    assert!(server.seen()[1].target.contains("spec.nodeName%3Dn1"));
}
