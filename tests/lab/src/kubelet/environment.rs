//! A container's environment.

use anyhow::{Context, Result};
use base64::Engine;
use serde_json::Value;

use super::Kubelet;
use super::pod::{self, list, text};

/// Name and value of all variables, in order; a later one of the same name wins.
pub fn build(kubelet: &Kubelet, pod: &Value, container: &Value, ip: &str) -> Result<Vec<(String, String)>> {
    let mut all: Vec<(String, String)> = vec![
        (
            "HOSTNAME".to_owned(),
            if pod::is_host_network(pod) { kubelet.options.node.clone() } else { pod::name(pod).to_owned() },
        ),
        ("KUBERNETES_SERVICE_HOST".to_owned(), kubelet.options.service.to_string()),
        ("KUBERNETES_SERVICE_PORT".to_owned(), "443".to_owned()),
    ];
    for source in list(container, "/envFrom") {
        let name = text(source, "/configMapRef/name");
        if !name.is_empty() {
            all.extend(pod::texts(&read(kubelet, pod, "configmaps", name)?, "/data"));
        }
    }
    for variable in list(container, "/env") {
        let value = match variable.get("value").and_then(Value::as_str) {
            Some(value) => expand(value, &all),
            None => match value_from(kubelet, pod, variable.get("valueFrom").unwrap_or(&Value::Null), ip)? {
                Some(value) => value,
                None => continue,
            },
        };
        all.push((text(variable, "/name").to_owned(), value));
    }
    Ok(all)
}

/// Replaces each $(NAME) whose variable is there.
pub fn expand(word: &str, environment: &[(String, String)]) -> String {
    let mut word = word.to_owned();
    for (name, value) in environment {
        word = word.replace(&format!("$({name})"), value);
    }
    word
}

/// The value of a variable that comes from elsewhere; nothing for an optional one that is not there.
fn value_from(kubelet: &Kubelet, pod: &Value, source: &Value, ip: &str) -> Result<Option<String>> {
    let field = text(source, "/fieldRef/fieldPath");
    if !field.is_empty() {
        return Ok(Some(downward(kubelet, pod, field, ip)));
    }
    for (kind, resource) in [("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets")] {
        let Some(reference) = source.get(kind) else {
            continue;
        };
        let optional = reference.get("optional") == Some(&Value::Bool(true));
        let object = match read(kubelet, pod, resource, text(reference, "/name")) {
            Err(_) if optional => return Ok(None),
            object => object?,
        };
        let key = text(reference, "/key");
        let value = object.get("data").and_then(|data| data.get(key)).and_then(Value::as_str);
        return match value {
            None if optional => Ok(None),
            None => anyhow::bail!("couldn't find key {key} in {resource} {}", text(reference, "/name")),
            Some(value) if kind == "secretKeyRef" => {
                let bytes =
                    base64::engine::general_purpose::STANDARD.decode(value).context("a secret is not base64")?;
                Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
            }
            Some(value) => Ok(Some(value.to_owned())),
        };
    }
    Ok(None)
}

/// A field of the pod itself.
pub fn downward(kubelet: &Kubelet, pod: &Value, field: &str, ip: &str) -> String {
    let address = kubelet.options.address.to_string();
    match field {
        "status.podIP" | "status.podIPs" => {
            if ip.is_empty() {
                address
            } else {
                ip.to_owned()
            }
        }
        "status.hostIP" | "status.hostIPs" => address,
        "spec.nodeName" => kubelet.options.node.clone(),
        _ => {
            let (path, key) =
                field.split_once("['").map_or((field, None), |(path, rest)| (path, rest.strip_suffix("']")));
            let mut pointer = format!("/{}", path.replace('.', "/"));
            if let Some(key) = key {
                pointer.push_str(&format!("/{}", key.replace('~', "~0").replace('/', "~1")));
            }
            text(pod, &pointer).to_owned()
        }
    }
}

/// Reads an object of the pod's namespace.
pub fn read(kubelet: &Kubelet, pod: &Value, resource: &str, name: &str) -> Result<Value> {
    kubelet.read(&format!("/api/v1/namespaces/{}/{resource}/{name}", pod::namespace(pod)))
}
