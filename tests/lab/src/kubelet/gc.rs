//! Remains in the runtime: sandboxes that were replaced or whose pod is gone, containers that ended twice ago.

use std::collections::BTreeMap;

use super::Kubelet;
use super::pleg::UID;
use crate::cri::{ContainerState, PodSandboxState};

/// Removes what nobody needs any more. What cannot be removed now is tried again the next time.
pub fn collect(kubelet: &Kubelet) {
    if let (Ok(sandboxes), Ok(containers)) = (kubelet.cri.list_pod_sandbox(), kubelet.cri.list_containers()) {
        let mut newest: BTreeMap<String, i64> = BTreeMap::new();
        for sandbox in &sandboxes {
            let latest = newest.entry(sandbox.labels.get(UID).cloned().unwrap_or_default()).or_default();
            *latest = sandbox.created_at.max(*latest);
        }
        for sandbox in sandboxes {
            let uid = sandbox.labels.get(UID).cloned().unwrap_or_default();
            let replaced = newest.get(&uid).is_some_and(|latest| sandbox.created_at < *latest);
            let unwanted = !uid.is_empty() && !kubelet.has_worker(&uid) && kubelet.pod(&uid).is_none();
            if sandbox.state() == PodSandboxState::SandboxNotready && (replaced || unwanted) {
                // Stopped once more before: its network may never have been detached, and a failure there keeps it.
                let _ = kubelet
                    .cri
                    .stop_pod_sandbox(&sandbox.id)
                    .and_then(|()| kubelet.cri.remove_pod_sandbox(&sandbox.id));
            }
        }
        let mut latest: BTreeMap<(String, String), i64> = BTreeMap::new();
        let key = |container: &crate::cri::Container| {
            let name = container.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
            (container.labels.get(UID).cloned().unwrap_or_default(), name)
        };
        for container in &containers {
            let newest = latest.entry(key(container)).or_default();
            *newest = container.created_at.max(*newest);
        }
        for container in containers {
            let old = latest.get(&key(&container)).is_some_and(|newest| container.created_at < *newest);
            if container.state() == ContainerState::ContainerExited && old {
                let _ = kubelet.cri.remove_container(&container.id);
            }
        }
    }
}
