//! Pods that the API server has bound to this node: listed, then watched.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;

use super::{Kubelet, pod};
use crate::client::{Client, ClientResult};

/// How long to wait after a failure; the real kubelet backs off up to half a minute.
const PAUSE: Duration = Duration::from_millis(500);

/// Lists and watches in a thread of its own; while the server is away the last known pods stay wanted.
pub fn start(kubelet: &Arc<Kubelet>) {
    let kubelet = Arc::clone(kubelet);
    let Some(client) = kubelet.client.clone() else {
        return;
    };
    std::thread::spawn(move || {
        loop {
            if let Err(error) = follow(&kubelet, &client) {
                eprintln!("kubelet: pods could not be watched: {error}");
            }
            std::thread::sleep(PAUSE);
        }
    });
}

/// One list and its watch.
fn follow(kubelet: &Kubelet, client: &Client) -> ClientResult<()> {
    let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", kubelet.options.node);
    let list = client.get(&path)?;
    replace(kubelet, list.get("items").and_then(Value::as_array).cloned().unwrap_or_default());
    kubelet.sources_ready.store(true, Ordering::Relaxed);
    let version = pod::text(&list, "/metadata/resourceVersion").to_owned();
    for event in
        client.watch(&format!("{path}&resourceVersion={version}&allowWatchBookmarks=true&timeoutSeconds=300"))?
    {
        let event = event?;
        match event.kind.as_str() {
            "ADDED" | "MODIFIED" => put(kubelet, event.object),
            "DELETED" => kubelet.forget(pod::uid(&event.object)),
            _ => {}
        }
    }
    Ok(())
}

/// Takes a whole list: what is not in it is not wanted any more.
fn replace(kubelet: &Kubelet, pods: Vec<Value>) {
    let listed: Vec<String> = pods.iter().map(|pod| pod::uid(pod).to_owned()).collect();
    kubelet.forget_unshown(|pod| !pod::is_static(pod), |uid| listed.contains(uid));
    pods.into_iter().for_each(|pod| put(kubelet, pod));
}

/// Takes one pod; the images of static pods are not run from here.
fn put(kubelet: &Kubelet, pod: Value) {
    if pod::is_mirror(&pod) {
        return;
    }
    let uid = pod::uid(&pod).to_owned();
    let changed = {
        let mut desired = kubelet.desired();
        let old = desired.insert(uid.clone(), pod.clone());
        // Our own status reports come back too: they are no reason to look again.
        old.is_none_or(|old| without_status(&old) != without_status(&pod))
    };
    if changed {
        kubelet.wake(&uid);
    }
}

/// A pod as far as the kubelet does not write it itself.
fn without_status(pod: &Value) -> Value {
    let mut rest = pod.clone();
    if let Some(rest) = rest.as_object_mut() {
        rest.remove("status");
        if let Some(metadata) = rest.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("resourceVersion");
            metadata.remove("managedFields");
        }
    }
    rest
}
