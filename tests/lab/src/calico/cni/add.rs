//! ADD of the `calico` plugin, in the real one's order.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::agent::api::{Api, annotation, text};
use crate::agent::env;
use crate::calico::endpoint;

use super::conf::{self, Invocation, PodRef};
use super::dataplane::Wiring;
use super::{Failure, ipam_plugin, result};

/// Attaches a sandbox.
pub fn add(call: &Invocation) -> std::result::Result<Value, Failure> {
    call.require_nodename_file()?;
    let mtu = call.mtu()?;
    let api = call.connect()?;
    conf::require_ready(api.as_ref())?;
    let pod = call.pod();
    let object = match &pod {
        Some(pod) => Some(read_pod(api.as_ref(), pod)?),
        None if env("LAB_CALICO_WITHOUT_POD").is_some() => None,
        None => {
            return Err(anyhow::anyhow!(
                "resource does not exist: WorkloadEndpoint({}-cni-{}-) with error: malformed WorkloadEndpoint name - unable to determine Pod name",
                call.node()?,
                call.container_id
            )
            .into());
        }
    };
    let wanted = object.as_ref().map(requested_address).transpose()?.flatten();
    let address = ipam_plugin::delegate_add(call, wanted)?;
    let attached = attach(call, api.as_ref(), pod.as_ref(), object.as_ref(), address, mtu);
    if attached.is_err() {
        // Whatever fails from here on, the address goes back.
        let _ = ipam_plugin::delegate_del(call);
    }
    Ok(attached?)
}

/// Namespace and Pod are read for their labels and annotations; either missing is an error.
fn read_pod(api: &dyn Api, pod: &PodRef) -> Result<Value> {
    api.get(&format!("/api/v1/namespaces/{}", pod.namespace))
        .with_context(|| format!("the namespace {} could not be read", pod.namespace))?;
    api.get(&pod.path()).with_context(|| format!("the pod {}/{} could not be read", pod.namespace, pod.name))
}

/// The address that the pod's annotation asks for, if it does.
fn requested_address(pod: &Value) -> Result<Option<std::net::Ipv4Addr>> {
    let Some(list) = annotation(pod, "cni.projectcalico.org/ipAddrs").filter(|list| !list.is_empty()) else {
        return Ok(None);
    };
    let addresses: Vec<std::net::Ipv4Addr> = serde_json::from_str(list)
        .with_context(|| format!("failed to parse '{list}' as JSON for annotation cni.projectcalico.org/ipAddrs"))?;
    match addresses[..] {
        [address] => Ok(Some(address)),
        _ => bail!("annotation cni.projectcalico.org/ipAddrs must hold one IPv4 address, found {list}"),
    }
}

fn attach(
    call: &Invocation,
    api: &dyn Api,
    pod: Option<&PodRef>,
    object: Option<&Value>,
    address: std::net::Ipv4Addr,
    mtu: Option<u64>,
) -> Result<Value> {
    let host = match pod {
        Some(pod) => endpoint::interface_name(&pod.namespace, &pod.name),
        None => format!("cali{}", call.container_id.chars().take(11).collect::<String>()),
    };
    let wiring = Wiring {
        netns: &call.netns,
        ifname: &call.ifname,
        host: &host,
        address,
        mtu,
        forwarding: call.conf["container_settings"]["allow_ip_forwarding"] == true,
    };
    let mac = wiring.connect()?;
    if let (Some(pod), Some(object)) = (pod, object) {
        annotate(api, pod, object, address, &call.container_id)?;
    }
    Ok(result::main(call.version(), address, &host, (&call.ifname, &mac), &call.netns))
}

/// One patch of pods/status; no resourceVersion, so that the kubelet's own writes do not get in its way.
fn annotate(
    api: &dyn Api,
    pod: &PodRef,
    object: &Value,
    address: std::net::Ipv4Addr,
    container_id: &str,
) -> Result<()> {
    let with_length = format!("{address}/32");
    let mut metadata = json!({"annotations": {
        endpoint::POD_IP: with_length, endpoint::POD_IPS: with_length, endpoint::CONTAINER_ID: container_id,
    }});
    let uid = text(object, "/metadata/uid");
    if !uid.is_empty() {
        metadata["uid"] = json!(uid);
    }
    api.patch(&format!("{}/status", pod.path()), &json!({"metadata": metadata})).map(|_| ()).with_context(|| {
        format!("Error creating/updating endpoint in datastore: the pod {}/{}", pod.namespace, pod.name)
    })
}
