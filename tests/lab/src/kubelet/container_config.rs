//! A container as CRI's configuration.

use std::collections::HashMap;

use anyhow::Result;
use serde_json::Value;

use super::pod::{list, number, text};
use super::{Kubelet, environment, sandbox_config, volumes};
use crate::cri;

/// The annotation that carries a container's restart count over restarts of the kubelet.
const RESTARTS: &str = "io.kubernetes.container.restartCount";
/// The annotation that carries its pod's grace, for who stops it without asking the API server.
const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
/// The label that names a container.
const NAME: &str = "io.kubernetes.container.name";

/// The configuration of a pod's container for its `restarts`th restart.
pub fn build(
    kubelet: &Kubelet,
    pod: &Value,
    container: &Value,
    ip: &str,
    restarts: u32,
) -> Result<cri::ContainerConfig> {
    let name = text(container, "/name");
    let environment = environment::build(kubelet, pod, container, ip)?;
    let expand = |pointer: &str| -> Vec<String> {
        list(container, pointer).filter_map(Value::as_str).map(|word| environment::expand(word, &environment)).collect()
    };
    let (command, args) = (expand("/command"), expand("/args"));
    let context = cri::LinuxContainerSecurityContext {
        privileged: container.pointer("/securityContext/privileged") == Some(&Value::Bool(true)),
        capabilities: Some(cri::Capability {
            add_capabilities: words(container, "/securityContext/capabilities/add"),
            drop_capabilities: words(container, "/securityContext/capabilities/drop"),
            ..Default::default()
        }),
        namespace_options: Some(sandbox_config::namespaces(pod)),
        ..Default::default()
    };
    let mut labels: HashMap<String, String> = sandbox_config::identity(pod).into();
    labels.insert(NAME.to_owned(), name.to_owned());
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.to_owned(), attempt: restarts }),
        image: Some(cri::ImageSpec { image: text(container, "/image").to_owned(), ..Default::default() }),
        command,
        args,
        working_dir: text(container, "/workingDir").to_owned(),
        envs: environment.into_iter().map(|(key, value)| cri::KeyValue { key, value }).collect(),
        mounts: volumes::mounts(pod, container),
        labels,
        annotations: HashMap::from([
            (RESTARTS.to_owned(), restarts.to_string()),
            (GRACE.to_owned(), number(pod, "/spec/terminationGracePeriodSeconds", 30).to_string()),
        ]),
        log_path: format!("{name}/{restarts}.log"),
        linux: Some(cri::LinuxContainerConfig { security_context: Some(context), ..Default::default() }),
        ..Default::default()
    })
}

/// A list of words.
fn words(container: &Value, pointer: &str) -> Vec<String> {
    list(container, pointer).filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A container's name in the pod.
pub fn name(container: &cri::Container) -> &str {
    container.metadata.as_ref().map(|metadata| metadata.name.as_str()).unwrap_or_default()
}

/// A container's restart count.
pub fn restarts(container: &cri::Container) -> u32 {
    container.annotations.get(RESTARTS).and_then(|text| text.parse().ok()).unwrap_or_default()
}
