//! Reads the forms of kubeconfig that the lab writes: inline data, file paths, tokens.

use std::path::Path;

use anyhow::{Context, bail};
use base64::Engine;
use serde_json::Value;

/// Where the server is and who asks.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// `https://HOST:PORT`
    pub server: String,
    /// PEM.
    pub ca: Option<String>,
    /// PEM.
    pub certificate: Option<String>,
    /// PEM.
    pub key: Option<String>,
    /// Bearer token.
    pub token: Option<String>,
}

impl Credentials {
    /// Follows the current context; relative paths start at `folder`.
    pub fn parse(text: &str, folder: &Path) -> anyhow::Result<Self> {
        let config: Value = yaml_serde::from_str(text).context("not a kubeconfig")?;
        let context = entry(&config, "contexts", "context", &config["current-context"])?;
        let cluster = entry(&config, "clusters", "cluster", &context["cluster"])?;
        let user = entry(&config, "users", "user", &context["user"])?;
        let token = match user["token"].as_str() {
            Some(token) => Some(token.to_string()),
            None => file(&user["tokenFile"], folder)?.map(|token| token.trim().to_string()),
        };
        Ok(Self {
            server: plain_server(cluster["server"].as_str().context("the cluster has no server")?),
            ca: pem(cluster, "certificate-authority", folder)?,
            certificate: pem(user, "client-certificate", folder)?,
            key: pem(user, "client-key", folder)?,
            token,
        })
    }
}

fn entry<'a>(config: &'a Value, list: &str, field: &str, name: &Value) -> anyhow::Result<&'a Value> {
    let found = config[list].as_array().into_iter().flatten().find(|entry| entry["name"] == *name);
    match found {
        Some(entry) => Ok(&entry[field]),
        None => bail!("the kubeconfig has no {field} named {name}"),
    }
}

fn pem(object: &Value, field: &str, folder: &Path) -> anyhow::Result<Option<String>> {
    if let Some(data) = object[format!("{field}-data")].as_str() {
        let bytes = base64::engine::general_purpose::STANDARD.decode(data.replace(['\n', ' '], ""))?;
        return Ok(Some(String::from_utf8(bytes)?));
    }
    file(&object[field], folder)
}

fn file(path: &Value, folder: &Path) -> anyhow::Result<Option<String>> {
    let Some(path) = path.as_str() else { return Ok(None) };
    let path = folder.join(path);
    std::fs::read_to_string(&path).map(Some).with_context(|| format!("reading {}", path.display()))
}

/// Older Calico installers put brackets round IPv4 addresses too.
fn plain_server(server: &str) -> String {
    let bracketed = server.split_once("//[").and_then(|(scheme, rest)| Some((scheme, rest.split_once(']')?)));
    match bracketed {
        Some((scheme, (address, rest))) if address.parse::<std::net::Ipv4Addr>().is_ok() => {
            format!("{scheme}//{address}{rest}")
        }
        _ => server.to_string(),
    }
}
