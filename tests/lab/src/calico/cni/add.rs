//! ADD of the `calico` plugin, in the real one's order.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::agent::api::{Api, annotation, text};
use crate::agent::env;
use crate::agent::family::Family;
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
    let wanted = object.as_ref().map(requested_addresses).transpose()?.unwrap_or_default();
    let addresses = addresses(call, &wanted)?;
    let attached = attach(call, api.as_ref(), pod.as_ref(), object.as_ref(), &addresses, mtu);
    if attached.is_err() {
        // Whatever fails from here on, the addresses go back.
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

/// The addresses that the pod's annotation asks for, if it does: one of a family at most.
fn requested_addresses(pod: &Value) -> Result<Vec<IpAddr>> {
    let Some(list) = annotation(pod, "cni.projectcalico.org/ipAddrs").filter(|list| !list.is_empty()) else {
        return Ok(Vec::new());
    };
    let addresses: Vec<IpAddr> = serde_json::from_str(list)
        .with_context(|| format!("failed to parse '{list}' as JSON for annotation cni.projectcalico.org/ipAddrs"))?;
    let of = |family: Family| addresses.iter().filter(|address| Family::of(**address) == family).count();
    if addresses.is_empty() || Family::BOTH.into_iter().any(|family| of(family) > 1) {
        bail!(
            "annotation cni.projectcalico.org/ipAddrs must hold one IPv4 address and one IPv6 address at most, found {list}"
        );
    }
    Ok(addresses)
}

/// Asks the IPAM plugin: once for each address that is wanted by name, else for what the configuration says.
fn addresses(call: &Invocation, wanted: &[IpAddr]) -> Result<Vec<IpAddr>> {
    if wanted.is_empty() {
        return ipam_plugin::delegate_add(call, None);
    }
    let mut all = Vec::new();
    for address in wanted {
        match ipam_plugin::delegate_add(call, Some(*address)) {
            Ok(given) => all.extend(given),
            Err(error) => {
                if !all.is_empty() {
                    let _ = ipam_plugin::delegate_del(call);
                }
                return Err(error);
            }
        }
    }
    Ok(all)
}

fn attach(
    call: &Invocation,
    api: &dyn Api,
    pod: Option<&PodRef>,
    object: Option<&Value>,
    addresses: &[IpAddr],
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
        addresses,
        mtu,
        forwarding: call.conf["container_settings"]["allow_ip_forwarding"] == true,
    };
    let mac = wiring.connect()?;
    if let (Some(pod), Some(object)) = (pod, object) {
        annotate(api, pod, object, addresses, &call.container_id)?;
    }
    Ok(result::main(call.version(), addresses, &host, (&call.ifname, &mac), &call.netns))
}

/// One patch of pods/status; no resourceVersion, so that the kubelet's own writes do not get in its way.
fn annotate(api: &dyn Api, pod: &PodRef, object: &Value, addresses: &[IpAddr], container_id: &str) -> Result<()> {
    let all: Vec<String> = addresses.iter().map(|address| IpNet::from(*address).to_string()).collect();
    let mut metadata = json!({"annotations": {
        endpoint::POD_IP: all.first(), endpoint::POD_IPS: all.join(","), endpoint::CONTAINER_ID: container_id,
    }});
    let uid = text(object, "/metadata/uid");
    if !uid.is_empty() {
        metadata["uid"] = json!(uid);
    }
    api.patch(&format!("{}/status", pod.path()), &json!({"metadata": metadata})).map(|_| ()).with_context(|| {
        format!("Error creating/updating endpoint in datastore: the pod {}/{}", pod.namespace, pod.name)
    })
}
