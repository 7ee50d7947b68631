//! The end of a pod: its containers with grace, its sandboxes with their networks, then its object.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::pod::{self, list, text};
use super::sync::{Found, PodState};
use super::{Kubelet, container_config, pod_status, volumes};
use crate::cri::{self, ContainerState};

/// Ends a pod; true once nothing is left to do. `known` says that it is still wanted, as a deleted or finished one.
pub fn run(kubelet: &Kubelet, pod: &Value, known: bool, state: &mut PodState) -> Result<bool> {
    if !state.stopped {
        let found = Found::of(kubelet, pod)?;
        let grace = if pod::is_deleted(pod) {
            pod::grace(pod)
        } else {
            pod::number(pod, "/spec/terminationGracePeriodSeconds", 30)
        };
        // A pod that vanished from the API was deleted by force: nobody waits for it.
        stop_all(kubelet, pod, &found, if known { grace } else { grace.min(1) })?;
        state.stopped = true;
    }
    let is_finished = known && !pod::is_deleted(pod);
    if is_finished {
        // Succeeded or Failed: the object stays until somebody deletes it.
        return Ok(false);
    }
    if known && !pod::is_static(pod) {
        pod_status::report(kubelet, pod, state)?;
        delete_object(kubelet, pod)?;
    }
    for sandbox in Found::of(kubelet, pod)?.sandboxes {
        kubelet.cri.remove_pod_sandbox(&sandbox.id)?;
    }
    volumes::remove(pod);
    kubelet.desired().remove(pod::uid(pod));
    Ok(true)
}

/// Stops all containers at once, then all sandboxes; a sandbox that cannot be stopped is an error, to be tried again for ever.
pub fn stop_all(kubelet: &Kubelet, pod: &Value, found: &Found, grace: i64) -> Result<()> {
    let running = found.containers.iter().filter(|container| container.state() == ContainerState::ContainerRunning);
    std::thread::scope(|scope| {
        let stops: Vec<_> =
            running.map(|container| scope.spawn(|| stop_container(kubelet, pod, container, grace))).collect();
        stops
            .into_iter()
            .try_for_each(|stop| stop.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a container's end panicked"))))
    })?;
    for sandbox in &found.sandboxes {
        kubelet
            .cri
            .stop_pod_sandbox(&sandbox.id)
            .with_context(|| format!("error killing pod: failed to \"KillPodSandbox\" for {:?}", pod::uid(pod)))?;
    }
    Ok(())
}

/// Runs a container's preStop command, then stops it.
fn stop_container(kubelet: &Kubelet, pod: &Value, container: &cri::Container, grace: i64) -> Result<()> {
    let name = container_config::name(container);
    let spec = list(pod, "/spec/containers").find(|spec| text(spec, "/name") == name).unwrap_or(&Value::Null);
    let hook: Vec<String> =
        list(spec, "/lifecycle/preStop/exec/command").filter_map(Value::as_str).map(str::to_owned).collect();
    if !hook.is_empty() && grace > 0 {
        // A hook that fails is reported and does not keep the container.
        if let Err(error) = kubelet.cri.exec_sync(&container.id, &hook, Duration::from_secs(grace.unsigned_abs())) {
            pod_status::event(kubelet, pod, "FailedPreStopHook", &format!("PreStopHook failed: {error:#}"));
        }
    }
    kubelet.cri.stop_container(&container.id, grace)
}

/// Deletes the pod's object for good, if it is still the same pod.
fn delete_object(kubelet: &Kubelet, pod: &Value) -> Result<()> {
    let Some(client) = &kubelet.client else {
        return Ok(());
    };
    let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": pod::uid(pod)}});
    match client.delete_with(&pod::path(pod), &options) {
        Err(error) if error.not_found() || error.conflict() => Ok(()),
        answer => Ok(answer.map(drop)?),
    }
}
