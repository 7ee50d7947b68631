//! Credentials from a command: the ExecCredential protocol of client-go.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::config::Exec;
use crate::host::run::Run;

/// Time given to a credential plugin.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Credentials are used no longer than this before they expire.
const MARGIN: jiff::SignedDuration = jiff::SignedDuration::from_secs(10);

/// What a credential plugin gave.
#[derive(Clone)]
pub(super) struct Credential {
    /// Bearer token.
    pub token: Option<String>,
    /// Client certificate and key in PEM.
    pub certificate: Option<(Vec<u8>, Vec<u8>)>,
    expires: Option<jiff::Timestamp>,
}

impl Credential {
    /// Whether it may still be used.
    pub fn fresh(&self) -> bool {
        self.expires.is_none_or(|at| jiff::Timestamp::now() + MARGIN < at)
    }
}

/// Runs the plugin.
pub(super) fn run(exec: &Exec, cluster: &Value) -> Result<Credential> {
    let version = exec.api_version.as_str();
    if !matches!(version, "client.authentication.k8s.io/v1" | "client.authentication.k8s.io/v1beta1") {
        bail!("the credential plugin {} speaks {version}, which is not supported", exec.command);
    }
    if exec.interactive_mode.as_deref() == Some("Always") {
        bail!("the credential plugin {} wants to ask questions, and nobody is there to answer", exec.command);
    }
    let mut spec = json!({"interactive": false});
    if exec.provide_cluster_info {
        spec["cluster"] = cluster.clone();
    }
    let info = json!({"apiVersion": version, "kind": "ExecCredential", "spec": spec});
    let mut run = Run::new(&exec.command)
        .inherit_env()
        .timeout(TIMEOUT)
        .args(exec.args.iter().flatten())
        .env("KUBERNETES_EXEC_INFO", info.to_string());
    for variable in exec.env.iter().flatten() {
        run = run.env(&variable.name, &variable.value);
    }
    // Neither arguments nor output go into an error: both may hold secrets.
    let failed = || format!("the credential plugin {} gave no credentials", exec.command);
    let output = run.output().with_context(failed)?;
    if !output.status.success() {
        bail!(
            "the credential plugin {} {}. To fix it: run it by hand and see what it says",
            exec.command,
            output.ending()
        );
    }
    parse(&output.stdout, version).with_context(failed)
}

fn parse(stdout: &[u8], version: &str) -> Result<Credential> {
    let answer: Value = serde_json::from_slice(stdout).ok().context("its output is not JSON")?;
    let given = answer.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if given != version {
        bail!("it answered in {given:?} where {version:?} was asked for");
    }
    let text = |field: &str| {
        let value = answer.pointer(&format!("/status/{field}")).and_then(Value::as_str);
        value.filter(|v| !v.is_empty()).map(str::to_owned)
    };
    let certificate = match (text("clientCertificateData"), text("clientKeyData")) {
        (Some(certificate), Some(key)) => Some((certificate.into_bytes(), key.into_bytes())),
        (None, None) => None,
        _ => bail!("it gave a certificate without its key, or a key without its certificate"),
    };
    let token = text("token");
    if token.is_none() && certificate.is_none() {
        bail!("its answer holds neither a token nor a certificate");
    }
    let expires = text("expirationTimestamp").map(|t| t.parse()).transpose();
    let expires = expires.context("its expirationTimestamp does not parse")?;
    Ok(Credential { token, certificate, expires })
}
