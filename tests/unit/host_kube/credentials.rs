//! Who the client is, and whom it trusts: kubeconfigs, certificates, tokens, credential plugins.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use nodectl::host::Host;
use nodectl::host::kube::Kube;
use serde_json::json;

use crate::tls_server::{Authority, Server, base64, kubeconfig, ok, status};
use crate::{SERVER, certificate, cluster, pair};

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
fn without_a_certificate_the_server_is_asked_who_we_are() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    let server = Server::start(&authority, SERVER, |_, seen| {
        assert_eq!(seen.target, "/apis/authentication.k8s.io/v1/selfsubjectreviews");
        ok(json!({"status": {"userInfo": {"username": "system:node:n7"}}}))
    });
    let path = kubeconfig(directory.path(), cluster(&server, &authority), json!({"token": "t"}));
    assert_eq!(Kube::from_file(&path, None).unwrap().node_name().unwrap(), "n7");
}

/// Kubernetes before 1.28 knows no SelfSubjectReview.
#[test]
fn a_server_that_cannot_be_asked_who_we_are_says_whom_it_forbids_to_ask() {
    let answered = |code, reason, message: &'static str| {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new("ca");
        let server = Server::start(&authority, SERVER, move |_, _| status(code, reason, message));
        let path = kubeconfig(directory.path(), cluster(&server, &authority), json!({"token": "t"}));
        Kube::from_file(&path, None).unwrap().node_name().map_err(|error| error.to_string())
    };
    let forbidden = "selfsubjectreviews.authentication.k8s.io is forbidden: User \"system:node:n7\" cannot create resource \
                     \"selfsubjectreviews\" in API group \"authentication.k8s.io\" at the cluster scope";
    assert_eq!(answered(403, "Forbidden", forbidden).unwrap(), "n7");
    for (code, reason, message) in [(404, "NotFound", "the server could not find it"), (403, "Forbidden", "no")] {
        let said = answered(code, reason, message).unwrap_err();
        assert!(said.contains("have no client certificate") && said.contains("To fix it:"), "{said}");
    }
}

#[test]
fn faults_of_a_kubeconfig_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let server = json!({"server": "http://127.0.0.1:1"});
    let said = |path: &Path, context| format!("{:#}", Kube::from_file(path, context).unwrap_err());
    let path = kubeconfig(directory.path(), server.clone(), json!({"auth-provider": {"name": "gcp"}}));
    assert!(said(&path, None).contains("auth-provider"));
    assert!(said(&path, Some("elsewhere")).contains("no context \"elsewhere\""));
    let none = Path::new("/nonexistent/kubeconfig");
    assert!(said(none, None).contains("there is no kubeconfig"));
    let to_an_administrator = |path: &Path| format!("{:#}", Kube::for_admin(Some(path), None).unwrap_err());
    assert_eq!(
        to_an_administrator(none),
        "there is no kubeconfig /nonexistent/kubeconfig. To fix it: correct it, or name an administrator's with --kubeconfig \
         and --context"
    );
    std::fs::write(&path, "clusters: {").unwrap();
    assert!(said(&path, None).contains("does not parse"));
    std::fs::write(&path, "clusters: null\ncontexts: null\nusers: null\n").unwrap();
    assert!(said(&path, None).contains("no current context"));
}
