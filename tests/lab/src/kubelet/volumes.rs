//! A pod's volumes, as files and folders of the node.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine;
use serde_json::{Value, json};

use super::pod::{self, list, number, text};
use super::{Kubelet, environment};
use crate::cri;

/// Where the kubelet keeps a pod's volumes.
fn folder(pod: &Value) -> PathBuf {
    Path::new("/var/lib/kubelet/pods").join(pod::uid(pod)).join("volumes")
}

/// Makes all volumes; those that are there already are left as they are.
pub fn prepare(kubelet: &Kubelet, pod: &Value) -> Result<()> {
    for volume in list(pod, "/spec/volumes") {
        let name = text(volume, "/name");
        let path = folder(pod).join(name);
        let source = |kind: &str| volume.get(kind).filter(|source| !source.is_null());
        if let Some(host) = source("hostPath") {
            make_host_path(text(host, "/path"), text(host, "/type"))?;
            continue;
        }
        fs::create_dir_all(&path).with_context(|| format!("the volume {} could not be made", path.display()))?;
        if let Some(map) = source("configMap") {
            write_keys(kubelet, pod, &path, "configmaps", text(map, "/name"), map)?;
        } else if let Some(secret) = source("secret") {
            write_keys(kubelet, pod, &path, "secrets", text(secret, "/secretName"), secret)?;
        } else if let Some(projected) = source("projected") {
            for part in list(projected, "/sources") {
                project(kubelet, pod, &path, part)?;
            }
        }
    }
    Ok(())
}

/// Removes what was made for a pod.
pub fn remove(pod: &Value) {
    if let Some(own) = folder(pod).parent() {
        // ENOENT: it had none.
        let _ = fs::remove_dir_all(own);
    }
}

/// The mounts of a container.
pub fn mounts(pod: &Value, container: &Value) -> Vec<cri::Mount> {
    list(container, "/volumeMounts")
        .filter_map(|mount| {
            let name = text(mount, "/name");
            let volume = list(pod, "/spec/volumes").find(|volume| text(volume, "/name") == name)?;
            let mut host = match volume.get("hostPath") {
                Some(path) => PathBuf::from(text(path, "/path")),
                None => folder(pod).join(name),
            };
            if !text(mount, "/subPath").is_empty() {
                host.push(text(mount, "/subPath"));
            }
            let propagation = match text(mount, "/mountPropagation") {
                "Bidirectional" => cri::MountPropagation::PropagationBidirectional,
                "HostToContainer" => cri::MountPropagation::PropagationHostToContainer,
                _ => cri::MountPropagation::PropagationPrivate,
            };
            Some(cri::Mount {
                container_path: text(mount, "/mountPath").to_owned(),
                host_path: host.display().to_string(),
                readonly: mount.get("readOnly") == Some(&Value::Bool(true)),
                propagation: propagation.into(),
                ..Default::default()
            })
        })
        .collect()
}

/// Makes a host path that asks to be made; the runtime makes those of no type too, as containerd does.
fn make_host_path(path: &str, kind: &str) -> Result<()> {
    let path = Path::new(path);
    if path.exists() || kind.starts_with("Socket") || kind == "File" || kind == "Directory" {
        return Ok(());
    }
    if kind == "FileOrCreate" {
        return fs::write(path, "").with_context(|| format!("the host path {} could not be made", path.display()));
    }
    fs::create_dir_all(path).with_context(|| format!("the host path {} could not be made", path.display()))
}

/// Writes the keys of a ConfigMap or Secret as files.
fn write_keys(kubelet: &Kubelet, pod: &Value, path: &Path, resource: &str, name: &str, source: &Value) -> Result<()> {
    // The cluster's CA is published to a new namespace a moment after it is made; the lab's own programs do not need it.
    let object = match environment::read(kubelet, pod, resource, name) {
        Err(_) if source.get("optional") == Some(&Value::Bool(true)) || name == "kube-root-ca.crt" => return Ok(()),
        object => object?,
    };
    let items: Vec<(&str, &str)> =
        list(source, "/items").map(|item| (text(item, "/key"), text(item, "/path"))).collect();
    for (key, value) in object.get("data").and_then(Value::as_object).into_iter().flatten() {
        let file = match items.iter().find(|(wanted, _)| wanted == key) {
            Some((_, file)) => file,
            None if items.is_empty() => key.as_str(),
            None => continue,
        };
        let value = value.as_str().unwrap_or_default();
        let bytes = if resource == "secrets" {
            base64::engine::general_purpose::STANDARD.decode(value).context("a secret is not base64")?
        } else {
            value.as_bytes().to_vec()
        };
        fs::write(path.join(file), bytes)
            .with_context(|| format!("{file} of the volume {} could not be written", path.display()))?;
    }
    Ok(())
}

/// One source of a projected volume: the pod's token, the cluster's CA, its namespace.
fn project(kubelet: &Kubelet, pod: &Value, path: &Path, part: &Value) -> Result<()> {
    if let Some(map) = part.get("configMap") {
        return write_keys(kubelet, pod, path, "configmaps", text(map, "/name"), map);
    }
    if let Some(secret) = part.get("secret") {
        return write_keys(kubelet, pod, path, "secrets", text(secret, "/name"), secret);
    }
    for item in list(part, "/downwardAPI/items") {
        let value = environment::downward(kubelet, pod, text(item, "/fieldRef/fieldPath"), "");
        fs::write(path.join(text(item, "/path")), value).context("a field of the pod could not be written")?;
    }
    let Some(token) = part.get("serviceAccountToken") else {
        return Ok(());
    };
    let client = kubelet.client.as_ref().context("a token cannot be had without an API server")?;
    let audience = text(token, "/audience");
    let audiences: Vec<&str> = if audience.is_empty() { Vec::new() } else { vec![audience] };
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {
            "audiences": audiences, "expirationSeconds": number(token, "/expirationSeconds", 3600),
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod::name(pod), "uid": pod::uid(pod)},
        },
    });
    let account = match text(pod, "/spec/serviceAccountName") {
        "" => "default",
        account => account,
    };
    let file = path.join(text(token, "/path"));
    let accounts = format!("/api/v1/namespaces/{}/serviceaccounts", pod::namespace(pod));
    match client.create(&format!("{accounts}/{account}/token"), &request) {
        // The one it has serves while the API server is away.
        Err(error) if error.code == 0 && file.exists() => Ok(()),
        answer => fs::write(file, text(&answer?, "/status/token")).context("the pod's token could not be written"),
    }
}
