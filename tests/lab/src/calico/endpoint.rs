//! WorkloadEndpoints: in the Kubernetes datastore a Pod is one, whatever CNI networked it. Pure.

use std::net::IpAddr;

use serde_json::Value;
use sha1::{Digest, Sha1};

use crate::agent::api::{annotation, text};

/// The pod's first address with its length.
pub const POD_IP: &str = "cni.projectcalico.org/podIP";
/// All of the pod's addresses.
pub const POD_IPS: &str = "cni.projectcalico.org/podIPs";
/// The sandbox that has them.
pub const CONTAINER_ID: &str = "cni.projectcalico.org/containerID";

/// A pod with an address, bound to a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The node.
    pub node: String,
    /// The host interface that felix expects.
    pub interface: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
}

/// `cali` and the first eleven hex digits of sha1("<namespace>.<pod>").
pub fn interface_name(namespace: &str, pod: &str) -> String {
    let digest = Sha1::digest(format!("{namespace}.{pod}"));
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("cali{}", hex.get(..11).unwrap_or(&hex))
}

/// The endpoint that a Pod is; None for host-network pods, unbound ones and those that have no address (any more).
pub fn from_pod(pod: &Value) -> Option<Endpoint> {
    let node = text(pod, "/spec/nodeName");
    if node.is_empty() || pod["spec"]["hostNetwork"] == true || finished(pod) {
        return None;
    }
    let addresses = addresses(pod);
    if addresses.is_empty() {
        return None;
    }
    let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
    Some(Endpoint {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        node: node.to_owned(),
        interface: interface_name(namespace, name),
        addresses,
    })
}

/// Failed or Succeeded; or being deleted, and DEL has blanked the address.
fn finished(pod: &Value) -> bool {
    let ended = matches!(text(pod, "/status/phase"), "Failed" | "Succeeded");
    let deleting = pod["metadata"]["deletionTimestamp"].is_string();
    ended || (deleting && annotation(pod, POD_IP) == Some(""))
}

/// status.podIPs before status.podIP before the annotations.
fn addresses(pod: &Value) -> Vec<IpAddr> {
    let listed = pod["status"]["podIPs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let sources = [
        listed.iter().filter_map(|entry| entry["ip"].as_str()).collect::<Vec<_>>(),
        vec![text(pod, "/status/podIP")],
        annotation(pod, POD_IPS).unwrap_or_default().split(',').collect(),
        vec![annotation(pod, POD_IP).unwrap_or_default()],
    ];
    let parse = |source: Vec<&str>| -> Vec<IpAddr> {
        source.into_iter().filter_map(|text| text.split('/').next()?.trim().parse().ok()).collect()
    };
    sources.into_iter().map(parse).find(|found| !found.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_interface_depends_on_namespace_and_name_alone() {
        assert_eq!(interface_name("default", "nginx"), "calic440f455693");
    }

    #[test]
    fn any_pod_with_an_address_is_an_endpoint() {
        let pod = |spec: Value, status: Value| json!({"metadata": {"namespace": "default", "name": "nginx"}, "spec": spec, "status": status});
        let flannel = pod(json!({"nodeName": "n1"}), json!({"podIP": "10.244.1.7"}));
        assert_eq!(from_pod(&flannel).unwrap().addresses, ["10.244.1.7".parse::<IpAddr>().unwrap()]);
        assert!(from_pod(&pod(json!({"nodeName": "n1", "hostNetwork": true}), json!({"podIP": "1.2.3.4"}))).is_none());
        assert!(from_pod(&pod(json!({"nodeName": "n1"}), json!({}))).is_none());
        let mut annotated = pod(json!({"nodeName": "n1"}), json!({}));
        annotated["metadata"]["annotations"] = json!({POD_IPS: "10.244.1.8/32"});
        assert_eq!(from_pod(&annotated).unwrap().addresses, ["10.244.1.8".parse::<IpAddr>().unwrap()]);
        annotated["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        annotated["metadata"]["annotations"] = json!({POD_IP: "", POD_IPS: ""});
        annotated["status"]["podIP"] = json!("10.244.1.8");
        assert!(from_pod(&annotated).is_none(), "DEL has signalled the end");
    }
}
