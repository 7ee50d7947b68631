//! The ways to a server: addresses as they stand in kubeconfigs, path prefixes, proxies; files that change on the way.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nodectl::host::kube::Kube;
use serde_json::json;

use crate::tls_server::{Authority, Server, base64, kubeconfig, ok};
use crate::{SERVER, certificate, cluster, pair};

/// Reads `/api` from a server that a kubeconfig names like this; the target that the server saw.
fn asked(server: &Server, authority: &Authority, url: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let entry = json!({"server": url, "certificate-authority-data": base64(&authority.pem)});
    let path = kubeconfig(directory.path(), entry, json!({"token": "t"}));
    Kube::from_file(&path, None).unwrap().get("/api").unwrap();
    server.seen().last().unwrap().target.clone()
}

#[test]
fn addresses_as_kubeconfigs_have_them() {
    let authority = Authority::new("ca");
    let server = Server::start(&authority, SERVER, |_, _| ok(json!({})));
    let port = server.address.port();
    // As older installers of Calico write it.
    assert_eq!(asked(&server, &authority, &format!("https://[127.0.0.1]:{port}")), "/api");
    assert_eq!(asked(&server, &authority, &format!("127.0.0.1:{port}")), "/api");
    // As Rancher's proxy has it.
    let prefixed = format!("https://127.0.0.1:{port}/k8s/clusters/c-m-1/");
    assert_eq!(asked(&server, &authority, &prefixed), "/k8s/clusters/c-m-1/api");
    let named = Server::start(&authority, "localhost", |_, _| ok(json!({})));
    assert_eq!(asked(&named, &authority, &format!("https://localhost:{}", named.address.port())), "/api");
    let sixth = Server::start_on("[::1]:0", &authority, "::1", |_, _| ok(json!({})));
    assert_eq!(asked(&sixth, &authority, &format!("https://[::1]:{}", sixth.address.port())), "/api");
}

/// What a proxy was asked to connect to.
type Targets = Arc<Mutex<Vec<String>>>;

/// A proxy that connects to whatever it is asked for.
fn proxy() -> (String, Targets) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let targets = Targets::default();
    let seen = Arc::clone(&targets);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || connect(client, &seen));
        }
    });
    (url, targets)
}

fn connect(client: TcpStream, seen: &Targets) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let target = line.strip_prefix("CONNECT ")?.split(' ').next()?.to_owned();
    while !line.trim().is_empty() {
        line.clear();
        reader.read_line(&mut line).ok()?;
    }
    seen.lock().unwrap().push(target.clone());
    let server = TcpStream::connect(target).ok()?;
    let mut to_client = client;
    to_client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
    let (mut from_server, mut to_server) = (server.try_clone().ok()?, server);
    std::thread::spawn(move || std::io::copy(&mut from_server, &mut to_client));
    std::io::copy(&mut reader, &mut to_server).ok().map(drop)
}

#[test]
fn a_proxy_that_the_kubeconfig_names_is_gone_through() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    let server = Server::start(&authority, SERVER, |_, _| ok(json!({})));
    let node = authority.issue("system:node:n1", &[]);
    let (url, targets) = proxy();
    let mut entry = cluster(&server, &authority);
    entry["proxy-url"] = url.into();
    let path = kubeconfig(directory.path(), entry, certificate(&node, &node.key));
    Kube::from_file(&path, None).unwrap().get("/api").unwrap();
    assert_eq!(server.seen()[0].client.as_deref(), Some("system:node:n1"));
    assert_eq!(*targets.lock().unwrap(), [server.address.to_string()]);
}

#[test]
fn a_proxy_is_asked_for_the_address_and_the_server_verified_by_its_other_name() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    let server = Server::start(&authority, "api.cluster.example", |_, _| ok(json!({})));
    let address = server.address.to_string();
    let (url, targets) = proxy();
    let mut entry = cluster(&server, &authority);
    entry["proxy-url"] = url.into();
    let ask = |entry: &serde_json::Value| {
        let path = kubeconfig(directory.path(), entry.clone(), json!({"token": "t"}));
        Kube::from_file(&path, None).unwrap().patience(Duration::from_secs(2)).get("/api")
    };
    let error = ask(&entry).unwrap_err();
    assert!(error.message.contains("no secure connection"), "{error}");
    entry["tls-server-name"] = "api.cluster.example".into();
    ask(&entry).unwrap();
    assert!(targets.lock().unwrap().iter().all(|target| *target == address));
    assert_eq!(server.seen()[0].header("host"), Some(address.as_str()));
    // A proxy with a certificate is verified by its own name.
    let secure = Server::start(&authority, SERVER, |_, _| (502, Vec::new(), String::new()));
    entry["proxy-url"] = secure.url().into();
    let error = ask(&entry).unwrap_err();
    assert!(error.message.contains("proxy server responded 502"), "{error}");
    assert_eq!((secure.seen()[0].method.as_str(), &secure.seen()[0].target), ("CONNECT", &address));
}

#[test]
fn credentials_are_read_again_when_their_files_change_and_only_then() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    let server = Server::start(&authority, SERVER, |_, _| ok(json!({})));
    let pem = directory.path().join("current.pem");
    let put = |name: &str, key_of: &str| {
        let node = authority.issue(name, &[]);
        let file = directory.path().join(key_of);
        std::fs::write(&file, format!("{}{}", node.certificate, node.sec1_key)).unwrap();
        std::fs::rename(file, &pem).unwrap();
    };
    put("system:node:n1", "first.pem");
    std::fs::write(directory.path().join("ca.crt"), &authority.pem).unwrap();
    let entry = json!({"server": server.url(), "certificate-authority": "ca.crt"});
    let user = json!({"client-certificate": "current.pem", "client-key": "current.pem"});
    let path = kubeconfig(directory.path(), entry, user);
    let kube = Kube::from_file(&path, None).unwrap();
    let who = || {
        kube.get("/api").unwrap();
        server.seen().last().unwrap().client.clone().unwrap()
    };
    assert_eq!(who(), "system:node:n1");
    // kubelet rotates: for an instant the file is not there, then it is another.
    std::fs::rename(&pem, directory.path().join("away")).unwrap();
    assert_eq!(who(), "system:node:n1");
    put("system:node:n1-rotated", "second.pem");
    assert_eq!(who(), "system:node:n1-rotated");
    // A file that is being written is no reason to stop.
    std::fs::write(&pem, "-----BEGIN CERT").unwrap();
    assert_eq!(who(), "system:node:n1-rotated");
    put("system:node:n1", "third.pem");
    assert_eq!(who(), "system:node:n1");
    // The kubeconfig itself, now with a token.
    let token = json!({"token": "t"});
    kubeconfig(directory.path(), json!({"server": server.url(), "certificate-authority": "ca.crt"}), token);
    kube.get("/api").unwrap();
    let last = server.seen().last().unwrap().clone();
    assert_eq!((last.client.as_deref(), last.header("authorization")), (None, Some("Bearer t")));
}

#[test]
fn a_credential_plugin_of_version_1_gives_a_certificate_and_learns_of_the_cluster() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    let server = Server::start(&authority, SERVER, |_, _| ok(json!({})));
    let node = authority.issue("system:node:n1", &[]);
    let answer = json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {
        "expirationTimestamp": "2199-01-01T00:00:00Z",
        "clientCertificateData": node.certificate, "clientKeyData": node.key}});
    std::fs::write(directory.path().join("answer"), answer.to_string()).unwrap();
    let script = "#!/bin/sh\ncd \"${0%/*}\"\nprintf %s \"$KUBERNETES_EXEC_INFO\" >asked\ncat answer\n";
    std::fs::write(directory.path().join("plugin"), script).unwrap();
    let mut permissions = std::fs::metadata(directory.path().join("plugin")).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    std::fs::set_permissions(directory.path().join("plugin"), permissions).unwrap();
    let exec = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "IfAvailable",
        "command": "./plugin", "provideClusterInfo": true}});
    let path = kubeconfig(directory.path(), cluster(&server, &authority), exec);
    let kube = Kube::from_file(&path, None).unwrap();
    assert_eq!(kube.node_name().unwrap(), "n1");
    kube.get("/api").unwrap();
    assert_eq!(server.seen()[0].client.as_deref(), Some("system:node:n1"));
    let asked: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(directory.path().join("asked")).unwrap()).unwrap();
    assert_eq!(asked["spec"]["interactive"], false);
    assert_eq!(asked["spec"]["cluster"]["server"], server.url());
}

#[test]
fn a_node_is_who_its_certificate_says_and_nobody_else() {
    let (_server, kube, _directory) = pair(|_, _| ok(json!({})));
    assert_eq!(kube.node_name().unwrap(), "n1", "the kubeconfig calls its user u");
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    let server = Server::start(&authority, SERVER, |_, _| ok(json!({})));
    let admin = authority.issue("kubernetes-admin", &[]);
    let path = kubeconfig(directory.path(), cluster(&server, &authority), certificate(&admin, &admin.key));
    let error = Kube::from_file(&path, None).unwrap().node_name().unwrap_err();
    assert!(error.message.contains("are not a node's: they are those of \"kubernetes-admin\""), "{error}");
}
