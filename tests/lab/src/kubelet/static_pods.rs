//! Pods out of files, and their images in the API server.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Kubelet, pod};
use crate::client::Client;

/// How often the folder is looked at.
const PERIOD: Duration = Duration::from_millis(500);

/// Reads the folder over and over, in a thread of its own.
pub fn start(kubelet: &Arc<Kubelet>) {
    let kubelet = Arc::clone(kubelet);
    std::thread::spawn(move || {
        loop {
            refresh(&kubelet);
            if let Some(client) = &kubelet.client {
                mirror_all(&kubelet, client);
            }
            std::thread::sleep(PERIOD);
        }
    });
}

/// Makes the files' pods the wanted ones.
fn refresh(kubelet: &Kubelet) {
    let found = read_folder(&kubelet.options.manifests, &kubelet.options.node);
    kubelet.forget_unshown(pod::is_static, |uid| found.contains_key(uid));
    for (uid, pod) in found {
        kubelet.desired().entry(uid).or_insert(pod);
    }
}

/// The pods of all files, by uid.
fn read_folder(folder: &Path, node: &str) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        match read_file(&entry.path(), node) {
            Ok(pod) => {
                found.insert(pod::uid(&pod).to_owned(), pod);
            }
            Err(error) => eprintln!("kubelet: {error:#}"),
        }
    }
    found
}

/// A file's pod, with what the kubelet adds: node, name, uid and where it came from.
fn read_file(path: &Path, node: &str) -> Result<Value> {
    let text =
        fs::read_to_string(path).with_context(|| format!("the manifest {} could not be read", path.display()))?;
    let mut pod: Value =
        yaml_serde::from_str(&text).with_context(|| format!("the manifest {} is not valid", path.display()))?;
    let digest = Sha256::digest(format!("{text}{}", path.display()).as_bytes());
    let hash: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let name = format!("{}-{node}", pod::name(&pod));
    let namespace =
        if pod::namespace(&pod).is_empty() { "default".to_owned() } else { pod::namespace(&pod).to_owned() };
    let mut annotations = pod.pointer("/metadata/annotations").cloned().unwrap_or_else(|| json!({}));
    annotations["kubernetes.io/config.source"] = json!("file");
    annotations["kubernetes.io/config.hash"] = json!(hash);
    pod["metadata"]["annotations"] = annotations;
    pod["metadata"]["name"] = json!(name);
    pod["metadata"]["namespace"] = json!(namespace);
    pod["metadata"]["uid"] = json!(hash);
    pod["spec"]["nodeName"] = json!(node);
    Ok(pod)
}

/// Sees that each static pod has its image in the API server, and no image is left without its file.
fn mirror_all(kubelet: &Kubelet, client: &Client) {
    let wanted: Vec<Value> = kubelet.desired().values().filter(|pod| pod::is_static(pod)).cloned().collect();
    let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", kubelet.options.node);
    // Nothing to compare with while the server is away.
    let Ok(known) = client.list(&path) else {
        return;
    };
    let mirrors: Vec<&Value> = known.iter().filter(|pod| pod::is_mirror(pod)).collect();
    for pod in &wanted {
        let image = mirrors.iter().find(|image| pod::path(image) == pod::path(pod));
        let done = match image {
            None => create_mirror(kubelet, client, pod),
            Some(image) if mirror_hash(image) == pod::uid(pod) && !pod::is_deleted(image) => {
                // Another Ready than the one reported is the node lifecycle controller's, and is written over.
                let ready =
                    image["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Ready");
                let ready = ready.and_then(|c| c["status"].as_str()).unwrap_or_default();
                kubelet.set_image(pod::uid(pod), &format!("{} {ready}", pod::uid(image)));
                Ok(())
            }
            Some(image) => delete_mirror(client, image),
        };
        if let Err(error) = done {
            eprintln!("kubelet: the image of {} in the API server: {error:#}", pod::show(pod));
        }
    }
    for image in mirrors.iter().filter(|image| !wanted.iter().any(|pod| pod::path(pod) == pod::path(image))) {
        if let Err(error) = delete_mirror(client, image) {
            eprintln!("kubelet: the image {} has no file any more: {error:#}", pod::show(image));
        }
    }
}

/// What a mirror pod is the image of.
fn mirror_hash(image: &Value) -> &str {
    image.pointer("/metadata/annotations/kubernetes.io~1config.mirror").and_then(Value::as_str).unwrap_or_default()
}

/// Creates a mirror pod, owned by the Node as the API server demands.
fn create_mirror(kubelet: &Kubelet, client: &Client, pod: &Value) -> Result<()> {
    let node = client.get(&format!("/api/v1/nodes/{}", kubelet.options.node))?;
    let mut image = pod.clone();
    image["apiVersion"] = json!("v1");
    image["kind"] = json!("Pod");
    if let Some(metadata) = image["metadata"].as_object_mut() {
        metadata.remove("uid");
    }
    image["metadata"]["annotations"]["kubernetes.io/config.mirror"] = json!(pod::uid(pod));
    image["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Node", "name": kubelet.options.node, "uid": pod::uid(&node), "controller": true}]);
    client.create(&format!("/api/v1/namespaces/{}/pods", pod::namespace(pod)), &image)?;
    Ok(())
}

/// Deletes a mirror pod at once.
fn delete_mirror(client: &Client, image: &Value) -> Result<()> {
    client
        .delete_with(&pod::path(image), &json!({"gracePeriodSeconds": 0, "preconditions": {"uid": pod::uid(image)}}))?;
    Ok(())
}
