//! The API client against a small TLS server: credentials of every kind, refusals, repetitions, pages.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nodectl::host::Host;
use nodectl::host::kube::{Evictee, Eviction, Kube, Patch, Write};
use serde_json::{Value, json};
use tempfile::TempDir;

#[path = "support/tls_server.rs"]
mod tls_server;
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
fn keys_of_each_kind_are_shown_to_the_server() {
    let authority = Authority::new("ca");
    let server = Server::start(&authority, SERVER, |_, _| ok(json!({})));
    let node = authority.issue("system:node:n1", &[]);
    for key in [&node.key, &node.sec1_key] {
        let directory = tempfile::tempdir().unwrap();
        let path = kubeconfig(directory.path(), cluster(&server, &authority), certificate(&node, key));
        let kube = Kube::from_file(&path, None).unwrap();
        assert_eq!(kube.node_name().unwrap(), "n1");
        kube.get("/api/v1/nodes/n1").unwrap();
        assert_eq!(server.seen().last().unwrap().client.as_deref(), Some("system:node:n1"));
    }
}

#[test]
fn a_key_of_another_certificate_is_an_error_and_no_abort() {
    let authority = Authority::new("ca");
    let server = Server::start(&authority, SERVER, |_, _| ok(json!({})));
    let (node, other) = (authority.issue("a", &[]), authority.issue("b", &[]));
    let directory = tempfile::tempdir().unwrap();
    let path = kubeconfig(directory.path(), cluster(&server, &authority), certificate(&node, &other.key));
    let error = format!("{:#}", Kube::from_file(&path, None).unwrap_err());
    assert!(error.contains("the client key does not belong to the client certificate"), "{error}");
    assert!(!error.contains("PRIVATE"), "{error}");
}

#[test]
fn a_rotation_caught_half_way_is_waited_out() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    let server = Server::start(&authority, SERVER, |_, _| ok(json!({})));
    let node = authority.issue("system:node:n1", &[]);
    let pem = directory.path().join("kubelet-client-current.pem");
    let user = json!({"client-certificate": pem, "client-key": "kubelet-client-current.pem"});
    let path = kubeconfig(directory.path(), cluster(&server, &authority), user);
    let both = format!("{}{}", node.certificate, node.sec1_key);
    std::fs::write(directory.path().join("kubelet-client-2026.pem"), both).unwrap();
    let later = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(150));
        symlink("kubelet-client-2026.pem", pem).unwrap();
    });
    let kube = Kube::from_file(&path, None).unwrap();
    later.join().unwrap();
    kube.get("/api").unwrap();
    assert_eq!(server.seen()[0].client.as_deref(), Some("system:node:n1"));
}

#[test]
fn the_kubelets_kubeconfig_is_found_below_the_root() {
    let root = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    let server = Server::start(&authority, SERVER, |_, _| ok(json!({})));
    let node = authority.issue("system:node:n1", &[]);
    let inside = |path: &str| root.path().join(path);
    std::fs::create_dir_all(inside("etc/kubernetes")).unwrap();
    std::fs::create_dir_all(inside("var/lib/kubelet/pki")).unwrap();
    std::fs::write(inside("var/lib/kubelet/pki/now.pem"), format!("{}{}", node.certificate, node.key)).unwrap();
    let user =
        json!({"client-certificate": "/var/lib/kubelet/pki/now.pem", "client-key": "/var/lib/kubelet/pki/now.pem"});
    let written = kubeconfig(&inside("etc/kubernetes"), cluster(&server, &authority), user);
    std::fs::rename(written, inside("etc/kubernetes/kubelet.conf")).unwrap();
    let kube = Kube::for_node(&Host::new(root.path())).unwrap();
    assert_eq!(kube.node_name().unwrap(), "n1");
    assert!(kube.get("/api").is_ok());
    let nowhere = tempfile::tempdir().unwrap();
    let error = Kube::for_node(&Host::new(nowhere.path())).unwrap_err().to_string();
    assert!(error.contains("To fix it:"), "{error}");
}

#[test]
fn another_authority_is_refused_without_a_retry() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    let server = Server::start(&authority, SERVER, |_, _| ok(json!({})));
    let path = kubeconfig(directory.path(), cluster(&server, &Authority::new("other")), json!({"token": "sesame"}));
    let kube = Kube::from_file(&path, None).unwrap();
    let before = Instant::now();
    let error = kube.get("/api").unwrap_err();
    assert!(before.elapsed() < Duration::from_secs(2));
    assert!(!error.is_unreachable() && error.message.contains("UnknownIssuer"), "{error}");
    assert!(server.seen().is_empty());
}

#[test]
fn an_authority_without_a_usable_certificate_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    for bad in ["", "no PEM at all", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let text = if bad.is_empty() { "x" } else { bad };
        let cluster = json!({"server": "https://127.0.0.1:1", "certificate-authority-data": base64(text)});
        let path = kubeconfig(directory.path(), cluster, json!({"token": "t"}));
        let error = format!("{:#}", Kube::from_file(&path, None).unwrap_err());
        assert!(error.contains("no certificate that can be used"), "{error}");
    }
}

#[test]
fn the_name_to_verify_by_may_differ_from_the_address() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    let server = Server::start(&authority, "api.cluster.example", |_, _| ok(json!({})));
    let mut entry = cluster(&server, &authority);
    let path = kubeconfig(directory.path(), entry.clone(), json!({"token": "t"}));
    assert!(Kube::from_file(&path, None).unwrap().get("/api").is_err());
    entry["tls-server-name"] = "api.cluster.example".into();
    let path = kubeconfig(directory.path(), entry, json!({"token": "t"}));
    Kube::from_file(&path, None).unwrap().get("/api").unwrap();
}

#[test]
fn tokens_basic_and_impersonation_become_headers() {
    let authority = Authority::new("ca");
    let server = Server::start(&authority, SERVER, |_, _| ok(json!({})));
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("token"), "from-file\n").unwrap();
    let extra = json!({"token": "t", "as": "jane", "as-groups": ["a", "b"], "as-user-extra": {"scopes/x": ["y"]}});
    for (user, name, value) in [
        (json!({"token": "abc"}), "authorization", "Bearer abc"),
        (json!({"token": "abc", "tokenFile": "token"}), "authorization", "Bearer from-file"),
        (json!({"username": "u", "password": "p"}), "authorization", "Basic dTpw"),
        (extra.clone(), "impersonate-user", "jane"),
        (extra, "impersonate-extra-scopes%2Fx", "y"),
    ] {
        let path = kubeconfig(directory.path(), cluster(&server, &authority), user);
        Kube::from_file(&path, None).unwrap().get("/api").unwrap();
        assert_eq!(server.seen().last().unwrap().header(name), Some(value));
    }
    let groups = server.seen().last().unwrap().headers.iter().filter(|(n, _)| n == "impersonate-group").count();
    assert_eq!(groups, 2);
    let bad = kubeconfig(directory.path(), cluster(&server, &authority), json!({"token": "secret", "username": "u"}));
    let error = format!("{:#}", Kube::from_file(&bad, None).unwrap_err());
    assert!(error.contains("both a token and a user name") && !error.contains("secret"), "{error}");
}

#[test]
fn a_credential_plugin_is_asked_and_asked_again_after_401() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    let server = Server::start(&authority, SERVER, |_, seen| match seen.header("authorization") {
        Some("Bearer second") => ok(json!({})),
        _ => status(401, "Unauthorized", "Unauthorized"),
    });
    let script = directory.path().join("plugin");
    let text = r#"#!/bin/sh
case "$KUBERNETES_EXEC_INFO" in *client.authentication.k8s.io/v1beta1*) ;; *) exit 9;; esac
[ -e "$STATE" ] && token=second || token=first
: > "$STATE"
echo '{"apiVersion":"client.authentication.k8s.io/v1beta1","kind":"ExecCredential","status":{"token":"'$token'"}}'
"#;
    std::fs::write(&script, text).unwrap();
    let exec = json!({"exec": {
        "apiVersion": "client.authentication.k8s.io/v1beta1", "command": "/bin/sh", "args": [script],
        "env": [{"name": "STATE", "value": directory.path().join("state")}],
    }});
    let path = kubeconfig(directory.path(), cluster(&server, &authority), exec);
    let kube = Kube::from_file(&path, None).unwrap();
    kube.get("/api").unwrap();
    assert_eq!(server.seen().len(), 2);
    let mut always = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "x"}});
    always["exec"]["interactiveMode"] = "Always".into();
    let path = kubeconfig(directory.path(), cluster(&server, &authority), always);
    assert!(format!("{:#}", Kube::from_file(&path, None).unwrap_err()).contains("nobody is there"));
}

#[test]
fn credentials_are_read_again_once_after_401() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    let token = directory.path().join("token");
    std::fs::write(&token, "old").unwrap();
    let server = Server::start(&authority, SERVER, move |_, seen| match seen.header("authorization") {
        Some("Bearer new") => ok(json!({"fine": true})),
        _ => {
            std::fs::write(&token, "new").unwrap();
            status(401, "Unauthorized", "Unauthorized")
        }
    });
    let path = kubeconfig(directory.path(), cluster(&server, &authority), json!({"tokenFile": "token"}));
    let kube = Kube::from_file(&path, None).unwrap();
    assert_eq!(kube.get("/api").unwrap(), json!({"fine": true}));
    assert_eq!(server.seen().len(), 2);
    let (server, kube, _directory) = pair(|_, _| status(401, "Unauthorized", "Unauthorized"));
    let error = kube.get("/api").unwrap_err();
    assert!(error.is_unauthorized() && error.message.contains("To fix it:"), "{error}");
    assert_eq!(server.seen().len(), 2);
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
    let (server, kube, _directory) = pair(|_, _| (500, Vec::new(), "x".repeat(5000)));
    assert!(kube.get("/api").unwrap_err().message.len() < 1400);
    assert_eq!(server.seen().len(), 1);
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

#[test]
fn evictions_speak_the_servers_version_and_tell_budgets_from_errors() {
    let budget = json!({"kind": "Status", "message": "Cannot evict pod", "reason": "TooManyRequests", "code": 429,
        "details": {"causes": [{"reason": "DisruptionBudget", "message": "The disruption budget web needs 2 healthy pods"}]}});
    let (server, kube, _directory) = pair(move |n, seen| match n {
        0 => status(400, "BadRequest", "no kind Eviction in policy/v1"),
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
    assert_eq!(why, "The disruption budget web needs 2 healthy pods");
    assert!(kube.may_evict("d", "web-0", "u1").unwrap().unwrap().contains("more than one"));
    assert_eq!(kube.evict(pod, Write::REAL).unwrap(), Eviction::Gone);
    assert_eq!(kube.evict(pod, Write::REAL).unwrap_err().code, Some(422));
    let seen = server.seen();
    assert!(seen[2].target.ends_with("/eviction?dryRun=All") && seen[2].body.contains(r#""dryRun":["All"]"#));
    assert!(seen.iter().skip(1).all(|s| s.body.contains("policy/v1beta1")));
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

#[test]
fn without_a_certificate_the_server_is_asked_who_we_are() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    let count = AtomicUsize::new(0);
    let server = Server::start(&authority, SERVER, move |_, seen| {
        count.fetch_add(1, Ordering::Relaxed);
        assert_eq!(seen.target, "/apis/authentication.k8s.io/v1/selfsubjectreviews");
        ok(json!({"status": {"userInfo": {"username": "system:node:n7"}}}))
    });
    let path = kubeconfig(directory.path(), cluster(&server, &authority), json!({"token": "t"}));
    assert_eq!(Kube::from_file(&path, None).unwrap().node_name().unwrap(), "n7");
}

#[test]
fn faults_of_a_kubeconfig_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let server = json!({"server": "http://127.0.0.1:1"});
    let said = |path: &Path, context| format!("{:#}", Kube::from_file(path, context).unwrap_err());
    let path = kubeconfig(directory.path(), server.clone(), json!({"auth-provider": {"name": "gcp"}}));
    assert!(said(&path, None).contains("auth-provider"));
    assert!(said(&path, Some("elsewhere")).contains("no context \"elsewhere\""));
    assert!(said(Path::new("/nonexistent/kubeconfig"), None).contains("there is no kubeconfig"));
    std::fs::write(&path, "clusters: {").unwrap();
    assert!(said(&path, None).contains("does not parse"));
    std::fs::write(&path, "clusters: null\ncontexts: null\nusers: null\n").unwrap();
    assert!(said(&path, None).contains("no current context"));
}
