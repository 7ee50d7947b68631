//! Nothing secret leaves the client: not in errors, not in what it shows of itself, not in the log at its most talkative.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nodectl::host::kube::{Kube, Patch, Write as How};
use serde_json::{Value, json};

use crate::tls_server::{Authority, Server, base64, kubeconfig, ok, status};
use crate::{SERVER, cluster};

const SECRETS: [&str; 5] =
    ["token-3f9a1c77", "password-88ab20de", "argument-51c0ffee", "variable-0badcafe", "impersonated-7d3e"];

/// The log of the whole process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What is said: errors with all their causes, and what they and the client show of themselves.
fn said(path: &std::path::Path) -> String {
    let kube = match Kube::from_file(path, None) {
        Ok(kube) => kube.patience(Duration::from_millis(150)),
        Err(error) => return format!("{error:#} {error:?}"),
    };
    let mut text = format!("{kube:?}");
    let mut note = |answer: Result<Value, nodectl::host::kube::KubeError>| {
        let error = answer.map_or_else(|e| format!("{e} {e:?}"), |_| String::new());
        text.push_str(&error);
    };
    note(kube.get("/api"));
    note(kube.user().map(Value::from));
    note(kube.patch("/x", Patch::Merge, &json!({"a": 1}), How::REAL));
    text
}

#[track_caller]
fn clean(text: &str, secrets: &[&str]) {
    for secret in secrets {
        assert!(!text.contains(secret), "{secret} is in: {text}");
    }
}

#[test]
fn no_credential_is_ever_said() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false);
    subscriber.with_max_level(tracing_subscriber::filter::LevelFilter::TRACE).try_init().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("ca");
    let node = authority.issue("system:node:n1", &[]);
    let key_line = node.key.lines().nth(1).unwrap();
    let key = base64(&node.key);
    let mut secrets = SECRETS.to_vec();
    secrets.extend([key_line, &key[40..80]]);
    let [token, password, argument, variable, impersonated] = SECRETS;
    let script = format!("echo {argument} >&2; echo \"$V\" >&2; echo {{\\\"status\\\": {token}; exit 1");
    let users = [
        json!({"token": token, "as": impersonated}),
        json!({"username": "u", "password": password}),
        json!({"token": token, "username": "u", "password": password}),
        json!({"client-certificate-data": base64(&node.certificate), "client-key-data": key}),
        json!({"client-certificate-data": base64(&Authority::new("x").issue("y", &[]).certificate), "client-key-data": key}),
        json!({"client-certificate-data": key, "client-key-data": key}),
        json!({"client-key-data": format!("{key}!")}),
        json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/sh",
            "args": ["-c", script, argument], "env": [{"name": "V", "value": variable}]}}),
    ];
    let answers: [fn(usize) -> crate::tls_server::Answer; 4] = [
        |_| ok(json!({})),
        |_| status(401, "Unauthorized", "Unauthorized"),
        |_| status(403, "Forbidden", "no"),
        |_| (0, Vec::new(), String::new()),
    ];
    for answer in answers {
        let server = Server::start(&authority, SERVER, move |n, _| answer(n));
        for user in &users {
            let path = kubeconfig(directory.path(), cluster(&server, &authority), user.clone());
            clean(&said(&path), &secrets);
        }
    }
    // Nor of a file that is broken off or spoilt anywhere: the parser would quote what it met.
    let path = kubeconfig(directory.path(), json!({"server": "https://127.0.0.1:1"}), users[0].clone());
    let whole = std::fs::read_to_string(&path).unwrap();
    for end in 0..whole.len() {
        std::fs::write(&path, &whole[..end]).unwrap();
        clean(&said(&path), &secrets);
    }
    for spoilt in [
        format!("users: {token}"),
        format!("users: [{token}]"),
        format!("users: [{{name: {token}, user: {token}}}]"),
        format!("users: [{{name: u, user: {{tokenFile: [{token}], token: {{{token}: {password}}}}}}}]"),
        format!("{token}\n\t{password}"),
        format!("clusters: [{{name: c, cluster: {{insecure-skip-tls-verify: {password}}}}}]"),
    ] {
        std::fs::write(&path, spoilt).unwrap();
        clean(&said(&path), &secrets);
    }
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    clean(&logged, &secrets);
}
