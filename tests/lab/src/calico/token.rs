//! calico-kubeconfig: what the CNI plugin gets to talk to the API server with.
//!
//! The token lives for 24 hours (LAB_TOKEN_SECONDS); calico-node renews it as long as it runs. Once calico-node has left a node, the file dies within a day.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::agent::api::{Api, text};
use crate::agent::{env, env_number, kubeconfig, write_by_rename};

/// The ServiceAccount of the CNI plugin.
const ACCOUNT: &str = "calico-cni-plugin";

/// The CNI configuration directory.
pub fn net_dir() -> PathBuf {
    PathBuf::from(env("CNI_NET_DIR").unwrap_or_else(|| "/etc/cni/net.d".to_owned()))
}

/// Where the kubeconfig is written.
pub fn path() -> PathBuf {
    net_dir().join("calico-kubeconfig")
}

/// Asks for a token and writes the kubeconfig, readable for root alone.
pub fn write(api: &dyn Api, own_kubeconfig: &str) -> Result<()> {
    let namespace = env("POD_NAMESPACE").unwrap_or_else(|| "kube-system".to_owned());
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": [], "expirationSeconds": env_number("LAB_TOKEN_SECONDS", 24 * 3600)?},
    });
    let answer = api
        .create(&format!("/api/v1/namespaces/{namespace}/serviceaccounts/{ACCOUNT}/token"), &request)
        .with_context(|| format!("no token could be had for the ServiceAccount {namespace}/{ACCOUNT}"))?;
    let token = text(&answer, "/status/token");
    if token.is_empty() {
        bail!("the answer to the token request for {namespace}/{ACCOUNT} holds no token");
    }
    let server = kubeconfig::server(own_kubeconfig)?;
    let document = kubeconfig::with_token(&server, ACCOUNT, token);
    let yaml = yaml_serde::to_string(&document).context("the kubeconfig could not be put into YAML")?;
    let text = format!("# Kubeconfig file for Calico CNI plugin. Installed by calico/node.\n{yaml}");
    write_by_rename(&path(), text.as_bytes(), 0o600)
}
