//! A pod as CRI's sandbox configuration.

use std::collections::HashMap;

use serde_json::Value;

use super::pleg::UID;
use super::pod::{self, list, number, text, texts};
use crate::cri;

/// The configuration of a pod's sandbox.
pub fn build(pod: &Value, attempt: u32) -> cri::PodSandboxConfig {
    let context = cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        privileged: is_privileged(pod),
        ..Default::default()
    };
    let linux = cri::LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() };
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: pod::name(pod).to_owned(),
            uid: pod::uid(pod).to_owned(),
            namespace: pod::namespace(pod).to_owned(),
            attempt,
        }),
        hostname: if pod::is_host_network(pod) { String::new() } else { pod::name(pod).to_owned() },
        log_directory: format!("/var/log/pods/{}_{}_{}", pod::namespace(pod), pod::name(pod), pod::uid(pod)),
        port_mappings: port_mappings(pod),
        labels: labels(pod),
        annotations: texts(pod, "/metadata/annotations"),
        linux: Some(linux),
        ..Default::default()
    }
}

/// The namespaces that a pod shares with the node, and its containers with each other: a process namespace is each container's own.
pub fn namespaces(pod: &Value) -> cri::NamespaceOption {
    let of = |is_node: bool, other: cri::NamespaceMode| if is_node { cri::NamespaceMode::Node } else { other };
    let host = |field: &str| pod.pointer(field) == Some(&Value::Bool(true));
    cri::NamespaceOption {
        network: of(pod::is_host_network(pod), cri::NamespaceMode::Pod).into(),
        pid: of(host("/spec/hostPID"), cri::NamespaceMode::Container).into(),
        ipc: of(host("/spec/hostIPC"), cri::NamespaceMode::Pod).into(),
        ..Default::default()
    }
}

/// The pod's labels, and those by which the kubelet finds it again.
fn labels(pod: &Value) -> HashMap<String, String> {
    let mut labels = texts(pod, "/metadata/labels");
    labels.extend(identity(pod));
    labels
}

/// The labels that every sandbox and container of a pod carries.
pub fn identity(pod: &Value) -> [(String, String); 3] {
    [
        ("io.kubernetes.pod.name".to_owned(), pod::name(pod).to_owned()),
        ("io.kubernetes.pod.namespace".to_owned(), pod::namespace(pod).to_owned()),
        (UID.to_owned(), pod::uid(pod).to_owned()),
    ]
}

/// True when a container of the pod is privileged.
fn is_privileged(pod: &Value) -> bool {
    list(pod, "/spec/containers")
        .any(|container| container.pointer("/securityContext/privileged") == Some(&Value::Bool(true)))
}

/// The ports of all containers.
fn port_mappings(pod: &Value) -> Vec<cri::PortMapping> {
    let ports = list(pod, "/spec/containers").flat_map(|container| list(container, "/ports"));
    let small = |port: &Value, field: &str| i32::try_from(number(port, field, 0)).unwrap_or_default();
    ports
        .map(|port| {
            let protocol = match text(port, "/protocol") {
                "UDP" => cri::Protocol::Udp,
                "SCTP" => cri::Protocol::Sctp,
                _ => cri::Protocol::Tcp,
            };
            cri::PortMapping {
                protocol: protocol.into(),
                container_port: small(port, "/containerPort"),
                host_port: small(port, "/hostPort"),
                host_ip: text(port, "/hostIP").to_owned(),
            }
        })
        .collect()
}
