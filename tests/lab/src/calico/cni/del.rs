//! DEL of the `calico` plugin.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::agent::api::{Api, annotation, text};
use crate::calico::endpoint;

use super::conf::{self, Invocation, PodRef};
use super::{Failure, dataplane, ipam_plugin};

/// Detaches a sandbox. Everything before the namespace needs the API server: without it the runtime has to try again.
pub fn del(call: &Invocation) -> std::result::Result<(), Failure> {
    call.require_nodename_file()?;
    let api = call.connect()?;
    conf::require_ready(api.as_ref())?;
    if let Some(pod) = call.pod() {
        blank_annotations(api.as_ref(), &pod, &call.container_id)?;
    }
    dataplane::clean_up(&call.netns, &call.ifname)?;
    ipam_plugin::delegate_del(call)?;
    Ok(())
}

/// Blanks the pod's addresses, unless its annotations name another sandbox; no name at all counts as ours.
fn blank_annotations(api: &dyn Api, pod: &PodRef, container_id: &str) -> Result<()> {
    for _ in 0..6 {
        let Some(object) = api.find(&pod.path())? else { return Ok(()) };
        let holder = annotation(&object, endpoint::CONTAINER_ID).unwrap_or_default();
        if !holder.is_empty() && holder != container_id {
            return Ok(());
        }
        let patch = blanks(&object);
        match api.patch(&format!("{}/status", pod.path()), &patch) {
            Ok(_) => return Ok(()),
            Err(error) if error.not_found() => return Ok(()),
            Err(error) if error.conflict() => {}
            Err(error) => return Err(error).context("error deleting endpoint"),
        }
    }
    bail!("error deleting endpoint: endpoint was modified before it could be deleted")
}

/// Empty addresses, on condition that the pod is still the one that was read; the container id stays.
fn blanks(object: &Value) -> Value {
    json!({"metadata": {
        "resourceVersion": text(object, "/metadata/resourceVersion"),
        "uid": text(object, "/metadata/uid"),
        "annotations": {endpoint::POD_IP: "", endpoint::POD_IPS: ""},
    }})
}
