//! The runtime's records in the words of CRI.

use std::collections::HashMap;

use serde_json::json;

use super::records::{Container, Sandbox};
use super::{Runtime, sandboxes};
use crate::cri;

/// What Status answers.
pub fn runtime(runtime: &Runtime, verbose: bool) -> cri::StatusResponse {
    let network = match runtime.cni.status() {
        Ok(()) => condition("NetworkReady", true, "", ""),
        Err(error) => condition(
            "NetworkReady",
            false,
            "NetworkPluginNotReady",
            &format!("Network plugin returns error: {error:#}"),
        ),
    };
    let status = cri::RuntimeStatus { conditions: vec![condition("RuntimeReady", true, "", ""), network] };
    let mut info = HashMap::new();
    if verbose {
        let last = runtime.cni.last_load();
        info.insert("cniconfig".to_owned(), runtime.cni.describe().to_string());
        info.insert("lastCNILoadStatus".to_owned(), last.clone());
        info.insert("lastCNILoadStatus.default".to_owned(), last);
        info.insert("golang".to_owned(), json!("none: the lab's stand-in").to_string());
    }
    cri::StatusResponse { status: Some(status), info, ..Default::default() }
}

/// A condition.
fn condition(kind: &str, status: bool, reason: &str, message: &str) -> cri::RuntimeCondition {
    cri::RuntimeCondition { r#type: kind.to_owned(), status, reason: reason.to_owned(), message: message.to_owned() }
}

/// A sandbox's state.
fn sandbox_state(sandbox: &Sandbox) -> cri::PodSandboxState {
    if sandbox.ready { cri::PodSandboxState::SandboxReady } else { cri::PodSandboxState::SandboxNotready }
}

/// A sandbox in a list.
pub fn sandbox_item(sandbox: &Sandbox) -> cri::PodSandbox {
    let config = sandbox.config();
    cri::PodSandbox {
        id: sandbox.id.clone(),
        metadata: config.metadata,
        state: sandbox_state(sandbox).into(),
        created_at: sandbox.created_at,
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: sandbox.handler.clone(),
    }
}

/// A sandbox in full.
pub fn sandbox(sandbox: &Sandbox, verbose: bool) -> cri::PodSandboxStatusResponse {
    let config = sandbox.config();
    let options = config.linux.and_then(|linux| linux.security_context).and_then(|context| context.namespace_options);
    let mut addresses = sandboxes::addresses(sandbox).into_iter();
    let network = cri::PodSandboxNetworkStatus {
        ip: addresses.next().unwrap_or_default(),
        additional_ips: addresses.map(|ip| cri::PodIp { ip }).collect(),
    };
    let status = cri::PodSandboxStatus {
        id: sandbox.id.clone(),
        metadata: config.metadata,
        state: sandbox_state(sandbox).into(),
        created_at: sandbox.created_at,
        network: Some(network),
        linux: Some(cri::LinuxPodSandboxStatus { namespaces: Some(cri::Namespace { options }) }),
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: sandbox.handler.clone(),
    };
    let mut info = HashMap::new();
    if verbose {
        info.insert("info".to_owned(), sandbox_info(sandbox));
    }
    cri::PodSandboxStatusResponse { status: Some(status), info, ..Default::default() }
}

/// The part of containerd's verbose information that tools read: the namespaces of the OCI specification and the network's result.
fn sandbox_info(sandbox: &Sandbox) -> String {
    let namespaces: Vec<_> = sandbox.netns.iter().map(|path| json!({"type": "network", "path": path})).collect();
    json!({
        "pid": 0,
        "netNamespaceClosed": sandbox.netns.as_deref().is_some_and(super::netns::is_closed),
        "runtimeHandler": sandbox.handler,
        "runtimeSpec": {"linux": {"namespaces": namespaces}},
        "cniResult": sandbox.result,
    })
    .to_string()
}

/// A container's state.
fn container_state(container: &Container) -> cri::ContainerState {
    match (container.started_at, container.finished_at) {
        (0, _) => cri::ContainerState::ContainerCreated,
        (_, 0) => cri::ContainerState::ContainerRunning,
        _ => cri::ContainerState::ContainerExited,
    }
}

/// A container in a list.
pub fn container_item(container: &Container) -> cri::Container {
    let config = container.config();
    let image_ref = config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
    cri::Container {
        id: container.id.clone(),
        pod_sandbox_id: container.sandbox.clone(),
        metadata: config.metadata,
        image: config.image,
        image_id: image_ref.clone(),
        image_ref,
        state: container_state(container).into(),
        created_at: container.created_at,
        labels: config.labels,
        annotations: config.annotations,
    }
}

/// A container in full.
pub fn container(container: &Container) -> cri::ContainerStatusResponse {
    let config = container.config();
    let image_ref = config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
    let state = container_state(container);
    let reason = match (state, container.exit_code) {
        (cri::ContainerState::ContainerExited, 0) => "Completed",
        (cri::ContainerState::ContainerExited, 255) => "Unknown",
        (cri::ContainerState::ContainerExited, _) => "Error",
        _ => "",
    };
    let status = cri::ContainerStatus {
        id: container.id.clone(),
        metadata: config.metadata,
        state: state.into(),
        created_at: container.created_at,
        started_at: container.started_at,
        finished_at: container.finished_at,
        exit_code: container.exit_code,
        image: config.image,
        image_id: image_ref.clone(),
        image_ref,
        reason: reason.to_owned(),
        labels: config.labels,
        annotations: config.annotations,
        log_path: config.log_path,
        ..Default::default()
    };
    let info =
        HashMap::from([("info".to_owned(), json!({"pid": container.pid, "sandboxID": container.sandbox}).to_string())]);
    cri::ContainerStatusResponse { status: Some(status), info }
}
