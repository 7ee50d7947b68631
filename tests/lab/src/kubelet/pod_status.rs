//! What the kubelet tells the API server about a pod.

use serde_json::{Value, json};

use anyhow::Result;

use super::pod::{self, list, text};
use super::sync::{Found, PodState};
use super::{Kubelet, container_config, node_status};
use crate::client::Patch;
use crate::cri::{self, ContainerState, PodSandboxState};

/// Reports the pod's status if it differs from what was reported last. A dead API server is no failure of the pod.
pub fn report(kubelet: &Kubelet, pod: &Value, state: &mut PodState) -> Result<()> {
    let Some(client) = &kubelet.client else {
        return Ok(());
    };
    let found = Found::of(kubelet, pod)?;
    let status = compute(kubelet, pod, state, &found)?;
    let image = kubelet.image_of(pod::uid(pod));
    let known = kubelet.pod(pod::uid(pod)).unwrap_or_else(|| pod.clone());
    if status == state.reported && image == state.reported_to && !is_overwritten(&known, &status) {
        return Ok(());
    }
    let patch = json!({"status": with_times(&known, status.clone())});
    match client.patch(&format!("{}/status", pod::path(pod)), Patch::Merge, &patch) {
        Ok(_) => (state.reported, state.reported_to) = (status, image),
        // Gone meanwhile, or not mirrored yet.
        Err(error) if error.not_found() => {}
        Err(error) => {
            eprintln!("kubelet: the status of {} could not be reported: {error}", pod::show(pod));
            state.hurry = Some(std::time::Duration::from_secs(1));
        }
    }
    Ok(())
}

/// Whether somebody else has written another condition over ours: the node lifecycle controller takes Ready away from the
/// pods of a node that was silent, and the kubelet's status manager reconciles that when the node is back.
fn is_overwritten(known: &Value, status: &Value) -> bool {
    list(status, "/conditions").any(|own| {
        let theirs = list(known, "/status/conditions").find(|theirs| theirs["type"] == own["type"]);
        theirs.is_some_and(|theirs| theirs["status"] != own["status"])
    })
}

/// Sends an Event; a failure to do so is nobody's trouble.
pub fn event(kubelet: &Kubelet, pod: &Value, reason: &str, message: &str) {
    let Some(client) = &kubelet.client else {
        return;
    };
    let now = jiff::Timestamp::now();
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": format!("{}.{:x}", pod::name(pod), now.as_nanosecond()), "namespace": pod::namespace(pod)},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": pod::name(pod), "namespace": pod::namespace(pod), "uid": pod::uid(pod)},
        "reason": reason, "message": message, "type": "Warning", "count": 1,
        "source": {"component": "kubelet", "host": kubelet.options.node},
        "firstTimestamp": node_status::now(), "lastTimestamp": node_status::now(),
    });
    let _ = client.create(&format!("/api/v1/namespaces/{}/events", pod::namespace(pod)), &event);
}

/// The status without times, so that two of them can be compared.
fn compute(kubelet: &Kubelet, pod: &Value, state: &PodState, found: &Found) -> Result<Value> {
    let statuses = |pointer: &str, is_init: bool| -> Result<Vec<Value>> {
        list(pod, pointer).map(|spec| container_status(kubelet, state, found, spec, is_init)).collect()
    };
    let (init, containers) = (statuses("/spec/initContainers", true)?, statuses("/spec/containers", false)?);
    let initialized = init.iter().all(|status| status["ready"] == true)
        || containers.iter().any(|status| !status["containerID"].is_null());
    let ready = initialized && containers.iter().all(|status| status["ready"] == true);
    let ending = pod::is_deleted(pod);
    let condition = |kind: &str, is_true: bool| {
        let mut condition = json!({"type": kind, "status": if is_true { "True" } else { "False" }});
        if !is_true {
            condition["reason"] =
                json!(if kind == "Initialized" { "ContainersNotInitialized" } else { "ContainersNotReady" });
        }
        condition
    };
    let mut status = json!({
        "phase": phase(pod, &init, &containers),
        "hostIP": kubelet.options.address.to_string(),
        "startTime": state.start_time,
        "conditions": [
            condition("Initialized", initialized), condition("Ready", ready && !ending),
            condition("ContainersReady", ready), condition("PodScheduled", true),
        ],
        "containerStatuses": containers,
        "podIP": null, "podIPs": null,
    });
    if !init.is_empty() {
        status["initContainerStatuses"] = json!(init);
    }
    let addresses = addresses(kubelet, pod, found)?;
    if let Some(first) = addresses.first() {
        status["podIP"] = json!(first);
        status["podIPs"] = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    }
    Ok(status)
}

/// The addresses of the sandbox that is ready; none without one.
fn addresses(kubelet: &Kubelet, pod: &Value, found: &Found) -> Result<Vec<String>> {
    let Some(sandbox) = found.sandboxes.iter().find(|sandbox| sandbox.state() == PodSandboxState::SandboxReady) else {
        return Ok(Vec::new());
    };
    if pod::is_host_network(pod) {
        let options = &kubelet.options;
        return Ok(std::iter::once(options.address).chain(options.second_address).map(|ip| ip.to_string()).collect());
    }
    let network = kubelet.cri.pod_sandbox_status(&sandbox.id)?.network.unwrap_or_default();
    let more = network.additional_ips.into_iter().map(|ip| ip.ip);
    Ok(std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect())
}

/// Pending, Running, Succeeded or Failed.
fn phase(pod: &Value, init: &[Value], containers: &[Value]) -> &'static str {
    let policy = text(pod, "/spec/restartPolicy");
    let exit_codes: Vec<Option<i64>> =
        containers.iter().map(|status| status.pointer("/state/terminated/exitCode").and_then(Value::as_i64)).collect();
    let all_ended = !exit_codes.is_empty() && exit_codes.iter().all(Option::is_some);
    let any_failed = exit_codes.iter().any(|code| code.is_some_and(|code| code != 0));
    if policy == "Never"
        && init.iter().any(|status| {
            status.pointer("/state/terminated/exitCode").and_then(Value::as_i64).is_some_and(|code| code != 0)
        })
    {
        return "Failed";
    }
    match (all_ended, any_failed, policy) {
        (true, false, "Never" | "OnFailure") => "Succeeded",
        (true, true, "Never") => "Failed",
        _ if containers.iter().all(|status| status.pointer("/state/waiting").is_some()) => "Pending",
        _ => "Running",
    }
}

/// The status of one container.
fn container_status(kubelet: &Kubelet, state: &PodState, found: &Found, spec: &Value, is_init: bool) -> Result<Value> {
    let name = text(spec, "/name");
    let Some(newest) = found.newest(name) else {
        return Ok(
            json!({"name": name, "image": text(spec, "/image"), "imageID": "", "ready": false, "started": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ContainerCreating"}}, "lastState": {}}),
        );
    };
    let detail = kubelet.cri.container_status(&newest.id)?;
    let running = newest.state() == ContainerState::ContainerRunning;
    let ready = if is_init {
        newest.state() == ContainerState::ContainerExited && detail.exit_code == 0
    } else {
        running
            && state.probes.get(name).is_none_or(|probe| probe.is_ready(&newest.id))
            && (spec.get("readinessProbe").is_none() || state.probes.contains_key(name))
    };
    Ok(json!({
        "name": name, "image": text(spec, "/image"), "imageID": detail.image_ref, "containerID": format!("containerd://{}", newest.id),
        "ready": ready, "started": running, "restartCount": container_config::restarts(newest), "state": container_state(&detail), "lastState": {},
    }))
}

/// A container's state as the API writes it.
fn container_state(detail: &cri::ContainerStatus) -> Value {
    match detail.state() {
        ContainerState::ContainerRunning => json!({"running": {"startedAt": time(detail.started_at)}}),
        ContainerState::ContainerExited => json!({"terminated": {
            "exitCode": detail.exit_code, "reason": detail.reason, "startedAt": time(detail.started_at), "finishedAt": time(detail.finished_at),
            "containerID": format!("containerd://{}", detail.id),
        }}),
        _ => json!({"waiting": {"reason": "ContainerCreating"}}),
    }
}

/// Nanoseconds since 1970 as the API writes times.
fn time(nanoseconds: i64) -> String {
    jiff::Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Adds the times at which conditions changed, and keeps the conditions that others own.
fn with_times(known: &Value, mut status: Value) -> Value {
    let mut conditions: Vec<Value> = Vec::new();
    let own: Vec<Value> = status["conditions"].as_array().cloned().unwrap_or_default();
    for condition in &own {
        let mut condition = condition.clone();
        let old = list(known, "/status/conditions")
            .find(|old| old["type"] == condition["type"] && old["status"] == condition["status"]);
        let since = old.map(|old| text(old, "/lastTransitionTime").to_owned()).filter(|since| !since.is_empty());
        condition["lastProbeTime"] = Value::Null;
        condition["lastTransitionTime"] = json!(since.unwrap_or_else(node_status::now));
        conditions.push(condition);
    }
    let others =
        list(known, "/status/conditions").filter(|old| !own.iter().any(|condition| condition["type"] == old["type"]));
    conditions.extend(others.cloned());
    status["conditions"] = json!(conditions);
    status
}
