//! One look at a pod that should run: its sandbox, its init containers, its containers, its status.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::pod::{self, list, text};
use super::{Kubelet, container_config, pod_status, probe, sandbox_config, terminate, volumes};
use crate::cri::{self, ContainerState, PodSandboxState};

/// What a worker remembers of its pod between two looks.
#[derive(Default)]
pub struct PodState {
    /// Look again this soon, though nothing failed.
    pub hurry: Option<Duration>,
    /// When a container may be started again, and the pause after that.
    pub backoff: HashMap<String, (Instant, Duration)>,
    /// The status as it was reported last.
    pub reported: Value,
    /// The image of a static pod that it was reported to.
    pub reported_to: String,
    /// When the kubelet first saw the pod.
    pub start_time: String,
    /// Readiness as probes see it.
    pub probes: HashMap<String, probe::Probe>,
    /// True once all of a pod that is to end was stopped.
    pub stopped: bool,
}

/// What the runtime has of a pod.
pub struct Found {
    /// All its sandboxes, newest first.
    pub sandboxes: Vec<cri::PodSandbox>,
    /// All its containers, newest first.
    pub containers: Vec<cri::Container>,
}

impl Found {
    /// Asks the runtime.
    pub fn of(kubelet: &Kubelet, pod: &Value) -> Result<Found> {
        let uid = pod::uid(pod);
        let mut sandboxes = kubelet.cri.list_pod_sandbox()?;
        sandboxes.retain(|sandbox| sandbox.labels.get(super::pleg::UID).is_some_and(|label| label == uid));
        sandboxes.sort_by_key(|sandbox| std::cmp::Reverse(sandbox.created_at));
        let mut containers = kubelet.cri.list_containers()?;
        containers.retain(|container| container.labels.get(super::pleg::UID).is_some_and(|label| label == uid));
        containers.sort_by_key(|container| std::cmp::Reverse(container.created_at));
        Ok(Found { sandboxes, containers })
    }

    /// The newest container of a name, in any sandbox.
    pub fn newest(&self, name: &str) -> Option<&cri::Container> {
        self.containers.iter().find(|container| container_config::name(container) == name)
    }

    /// The newest container of a name in one sandbox.
    fn newest_in(&self, sandbox: &str, name: &str) -> Option<&cri::Container> {
        self.containers
            .iter()
            .find(|container| container.pod_sandbox_id == sandbox && container_config::name(container) == name)
    }
}

/// A sandbox that can be used.
struct Ready {
    id: String,
    ip: String,
    config: cri::PodSandboxConfig,
}

/// One look; answers false, as a pod that should run never is done.
pub fn run(kubelet: &Kubelet, pod: &Value, state: &mut PodState) -> Result<bool> {
    if state.start_time.is_empty() {
        state.start_time = super::node_status::now();
    }
    state.stopped = false;
    let result = step(kubelet, pod, state);
    if list(pod, "/spec/containers").any(|container| container.get("readinessProbe").is_some()) {
        state.hurry.get_or_insert(Duration::from_secs(1));
    }
    // Reported in any case: what failed may have changed much before.
    pod_status::report(kubelet, pod, state)?;
    result.map(|()| false)
}

/// Brings the pod one step further, or as far as it goes.
fn step(kubelet: &Kubelet, pod: &Value, state: &mut PodState) -> Result<()> {
    let found = Found::of(kubelet, pod)?;
    let (sandbox, found) = match usable(kubelet, pod, &found)? {
        Some(sandbox) => (sandbox, found),
        None => {
            terminate::stop_all(kubelet, pod, &found, pod::grace(pod))?;
            // The old sandbox's address is gone before the new one's is known.
            pod_status::report(kubelet, pod, state)?;
            let attempt = found
                .sandboxes
                .first()
                .and_then(|sandbox| sandbox.metadata.as_ref())
                .map_or(0, |metadata| metadata.attempt + 1);
            (new_sandbox(kubelet, pod, attempt)?, Found::of(kubelet, pod)?)
        }
    };
    if !init_containers(kubelet, pod, state, &found, &sandbox)? {
        return Ok(());
    }
    for container in list(pod, "/spec/containers") {
        let name = text(container, "/name");
        match found.newest_in(&sandbox.id, name) {
            Some(newest) if newest.state() == ContainerState::ContainerRunning => {
                state.probes.entry(name.to_owned()).or_default().run(kubelet, pod, container, &newest.id, &sandbox.ip)
            }
            Some(newest) => restart_if_due(kubelet, pod, state, container, newest, &sandbox)?,
            None => start(
                kubelet,
                pod,
                state,
                container,
                found.newest(name).map_or(0, |old| container_config::restarts(old) + 1),
                &sandbox,
            )?,
        }
    }
    Ok(())
}

/// The pod's sandbox, if there is exactly one that is ready, it is the newest and, for a pod network, it has an address.
fn usable(kubelet: &Kubelet, pod: &Value, found: &Found) -> Result<Option<Ready>> {
    let ready: Vec<_> =
        found.sandboxes.iter().filter(|sandbox| sandbox.state() == PodSandboxState::SandboxReady).collect();
    let (Some(newest), [only]) = (found.sandboxes.first(), ready.as_slice()) else {
        return Ok(None);
    };
    if newest.id != only.id {
        return Ok(None);
    }
    let status = kubelet.cri.pod_sandbox_status(&newest.id)?;
    let ip = status.network.map(|network| network.ip).unwrap_or_default();
    if ip.is_empty() && !pod::is_host_network(pod) {
        return Ok(None);
    }
    let attempt = newest.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
    Ok(Some(Ready { id: newest.id.clone(), ip, config: sandbox_config::build(pod, attempt) }))
}

/// Makes a sandbox; on the pod network only while the network is ready.
fn new_sandbox(kubelet: &Kubelet, pod: &Value, attempt: u32) -> Result<Ready> {
    if !pod::is_host_network(pod)
        && let Some(problem) = kubelet.network_problem()
    {
        pod_status::event(
            kubelet,
            pod,
            "NetworkNotReady",
            &format!("network is not ready: container runtime network not ready: {problem}"),
        );
        bail!("network is not ready: {problem}");
    }
    volumes::prepare(kubelet, pod)?;
    let config = sandbox_config::build(pod, attempt);
    let id = kubelet.cri.run_pod_sandbox(config.clone()).inspect_err(|error| {
        pod_status::event(kubelet, pod, "FailedCreatePodSandBox", &format!("Failed to create pod sandbox: {error:#}"));
    })?;
    let status = kubelet.cri.pod_sandbox_status(&id)?;
    Ok(Ready { id, ip: status.network.map(|network| network.ip).unwrap_or_default(), config })
}

/// Runs the init containers one after the other; true once all have ended well.
fn init_containers(
    kubelet: &Kubelet,
    pod: &Value,
    state: &mut PodState,
    found: &Found,
    sandbox: &Ready,
) -> Result<bool> {
    // They have run if what comes after them is there: their own remains may have been collected.
    if list(pod, "/spec/containers").any(|container| found.newest_in(&sandbox.id, text(container, "/name")).is_some()) {
        return Ok(true);
    }
    for container in list(pod, "/spec/initContainers") {
        let name = text(container, "/name");
        let Some(newest) = found.newest_in(&sandbox.id, name) else {
            // The count goes on over sandboxes: containerd reserves a container's name and count until the old one is removed.
            let restarts = found.newest(name).map_or(0, |old| container_config::restarts(old) + 1);
            start(kubelet, pod, state, container, restarts, sandbox)?;
            return Ok(false);
        };
        if newest.state() == ContainerState::ContainerRunning {
            return Ok(false);
        }
        let ended = newest.state() == ContainerState::ContainerExited
            && kubelet.cri.container_status(&newest.id)?.exit_code == 0;
        if !ended {
            restart_if_due(kubelet, pod, state, container, newest, sandbox)?;
            return Ok(false);
        }
    }
    Ok(true)
}

/// Starts a container that has ended, if its pod wants that and the pause is over.
fn restart_if_due(
    kubelet: &Kubelet,
    pod: &Value,
    state: &mut PodState,
    container: &Value,
    old: &cri::Container,
    sandbox: &Ready,
) -> Result<()> {
    let status = kubelet.cri.container_status(&old.id)?;
    let wanted = match text(pod, "/spec/restartPolicy") {
        "Never" => old.state() == ContainerState::ContainerCreated,
        "OnFailure" => status.exit_code != 0,
        _ => true,
    };
    if !wanted {
        return Ok(());
    }
    let name = text(container, "/name").to_owned();
    let now = Instant::now();
    let (due, pause) = *state.backoff.entry(name.clone()).or_insert((now, Duration::from_millis(500)));
    if now < due {
        state.hurry = Some(due - now);
        return Ok(());
    }
    // The real kubelet's pause begins at ten seconds and ends at five minutes.
    let pause = (pause * 2).min(Duration::from_secs(10));
    state.backoff.insert(name, (now + pause, pause));
    start(kubelet, pod, state, container, container_config::restarts(old) + 1, sandbox)
}

/// Makes a container and starts it.
fn start(
    kubelet: &Kubelet,
    pod: &Value,
    state: &mut PodState,
    container: &Value,
    restarts: u32,
    sandbox: &Ready,
) -> Result<()> {
    let image = text(container, "/image");
    if !kubelet.cri.has_image(image)? {
        pod_status::event(kubelet, pod, "Failed", &format!("Failed to pull image {image:?}: it is not on the node"));
        bail!("the image {image:?} is not on the node");
    }
    volumes::prepare(kubelet, pod)?;
    let config = container_config::build(kubelet, pod, container, &sandbox.ip, restarts)?;
    let id = kubelet.cri.create_container(&sandbox.id, config, sandbox.config.clone())?;
    state.hurry = Some(Duration::from_millis(20));
    kubelet
        .cri
        .start_container(&id)
        .with_context(|| format!("the container {} could not be started", text(container, "/name")))
}
