//! Watching the runtime: pods whose sandboxes or containers changed are looked at again, orphans are ended, remains collected.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::{Kubelet, gc};
use crate::cri;

/// How often remains are collected; the real kubelet's is a minute.
const GC_PERIOD: Duration = Duration::from_secs(10);

/// The label that names a pod in the runtime.
pub const UID: &str = "io.kubernetes.pod.uid";

/// What there is of each pod, by uid: ids with their states.
type View = BTreeMap<String, Vec<(String, i32)>>;

/// Looks over and over, in a thread of its own.
pub fn start(kubelet: &Arc<Kubelet>) {
    let kubelet = Arc::clone(kubelet);
    std::thread::spawn(move || {
        let (mut last, mut collected) = (View::new(), Instant::now());
        loop {
            // While the runtime is away nothing is known, which is no reason to do anything.
            if let Ok(view) = look(&kubelet) {
                for uid in view.keys().chain(last.keys()) {
                    if view.get(uid) != last.get(uid) {
                        kubelet.wake(uid);
                    }
                }
                last = view;
            }
            if collected.elapsed() > GC_PERIOD {
                gc::collect(&kubelet);
                collected = Instant::now();
            }
            std::thread::sleep(kubelet.options.relist);
        }
    });
}

/// Lists everything once.
fn look(kubelet: &Arc<Kubelet>) -> Result<View> {
    let sandboxes = kubelet.cri.list_pod_sandbox()?;
    let containers = kubelet.cri.list_containers()?;
    for sandbox in &sandboxes {
        end_if_orphan(kubelet, sandbox);
    }
    let mut view = View::new();
    let uid_of = |labels: &std::collections::HashMap<String, String>| labels.get(UID).cloned().unwrap_or_default();
    for sandbox in sandboxes {
        view.entry(uid_of(&sandbox.labels)).or_default().push((sandbox.id, sandbox.state));
    }
    for container in containers {
        view.entry(uid_of(&container.labels)).or_default().push((container.id, container.state));
    }
    view.values_mut().for_each(|states| states.sort());
    Ok(view)
}

/// A sandbox of a pod that nobody wants: a pod was deleted while the kubelet was away.
fn end_if_orphan(kubelet: &Arc<Kubelet>, sandbox: &cri::PodSandbox) {
    let Some(uid) = sandbox.labels.get(UID) else {
        return;
    };
    if kubelet.pod(uid).is_some() || kubelet.has_worker(uid) {
        return;
    }
    let metadata = sandbox.metadata.clone().unwrap_or_default();
    let pod = json!({"metadata": {"name": metadata.name, "namespace": metadata.namespace, "uid": uid}, "spec": {}});
    kubelet.end_orphan(uid, pod);
}
