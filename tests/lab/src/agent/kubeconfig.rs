//! The kubeconfig that a stand-in runs with, and the one that Calico's CNI plugin gets.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::env;

/// Where the credentials of a stand-in stand: LAB_KUBECONFIG, else the file of its ServiceAccount.
pub fn path(service_account: &str) -> String {
    env("LAB_KUBECONFIG").unwrap_or_else(|| format!("/etc/kubernetes/lab/{service_account}.conf"))
}

/// Server address and CA (base64 PEM) out of a kubeconfig.
#[derive(Debug, Clone)]
pub struct Server {
    /// `https://host:port`.
    pub url: String,
    /// certificate-authority-data.
    pub ca: String,
}

/// Reads server and CA of a kubeconfig's first cluster.
pub fn server(path: &str) -> Result<Server> {
    let text = std::fs::read_to_string(path).with_context(|| format!("the kubeconfig {path} could not be read"))?;
    let parsed: Value = yaml_serde::from_str(&text).with_context(|| format!("the kubeconfig {path} is not YAML"))?;
    let cluster = &parsed["clusters"][0]["cluster"];
    let url = cluster["server"].as_str().with_context(|| format!("the kubeconfig {path} names no server"))?.to_owned();
    let ca = match (cluster["certificate-authority-data"].as_str(), cluster["certificate-authority"].as_str()) {
        (Some(data), _) => data.to_owned(),
        (None, Some(file)) => {
            use base64::Engine;
            let pem = std::fs::read(file).with_context(|| format!("the CA file {file} of {path} could not be read"))?;
            base64::engine::general_purpose::STANDARD.encode(pem)
        }
        (None, None) => String::new(),
    };
    Ok(Server { url, ca })
}

/// A kubeconfig with a bearer token, as Calico's installer writes it for the CNI plugin.
pub fn with_token(server: &Server, user: &str, token: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config",
        "clusters": [{"name": "local", "cluster": {"server": server.url, "certificate-authority-data": server.ca}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "calico-context", "context": {"cluster": "local", "user": user}}],
        "current-context": "calico-context",
    })
}
