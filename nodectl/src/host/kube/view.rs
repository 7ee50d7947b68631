//! The API server's view of this node, from the Node and the pods bound to it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use super::{Kube, KubeError};
use crate::cni::PREPARED_ANNOTATION;
use crate::facts::{ClusterView, Pod};
use crate::prepared::Prepared;

/// Annotation of a static pod's mirror in the API.
const MIRROR: &str = "kubernetes.io/config.mirror";

impl Kube {
    /// What the server says about the node whose credentials these are.
    pub fn cluster_view(&self) -> Result<ClusterView, KubeError> {
        let name = self.node_name()?;
        let node = self.get(&format!("/api/v1/nodes/{name}"))?;
        let mut view = node_view(&node);
        view.node = name;
        view.pods = self.pods_on(&view.node)?;
        view.clock_ahead_s = self.session().clock_ahead();
        Ok(view)
    }

    /// Pods bound to a node. A node may list its own in this way only; since 1.32 a GET of a pod that has gone is forbidden
    /// to it, so that waiting for a deletion must list too.
    pub fn pods_on(&self, node: &str) -> Result<Vec<Pod>, KubeError> {
        let selector = format!("spec.nodeName={node}");
        let items = self.list("/api/v1/pods", &[("fieldSelector", &selector)])?;
        Ok(items.iter().map(pod_view).collect())
    }
}

fn node_view(node: &Value) -> ClusterView {
    let mut annotations = strings(node.pointer("/metadata/annotations"));
    let prepared = annotations.remove(PREPARED_ANNOTATION).map(|text| Prepared::parse(&text));
    let conditions =
        array(node, "/status/conditions").iter().map(|c| (text(c, "/type"), (text(c, "/status"), text(c, "/reason"))));
    let mut cidrs: Vec<String> =
        array(node, "/spec/podCIDRs").iter().filter_map(|c| c.as_str().map(str::to_owned)).collect();
    if cidrs.is_empty() {
        cidrs.push(text(node, "/spec/podCIDR"));
    }
    let addresses = array(node, "/status/addresses");
    ClusterView {
        node: text(node, "/metadata/name"),
        uid: text(node, "/metadata/uid"),
        labels: strings(node.pointer("/metadata/labels")),
        annotations,
        pod_cidrs: cidrs.iter().filter_map(|c| c.parse().ok()).collect(),
        unschedulable: flag(node, "/spec/unschedulable"),
        addresses: addresses
            .iter()
            .filter(|a| text(a, "/type") == "InternalIP")
            .filter_map(|a| text(a, "/address").parse().ok())
            .collect(),
        conditions: conditions.collect(),
        prepared,
        ..ClusterView::default()
    }
}

fn pod_view(pod: &Value) -> Pod {
    let controller = array(pod, "/metadata/ownerReferences")
        .iter()
        .find(|owner| flag(owner, "/controller"))
        .map(|owner| (text(owner, "/kind"), text(owner, "/name")));
    let host_network = flag(pod, "/spec/hostNetwork");
    let containers: Vec<&Value> =
        ["/spec/initContainers", "/spec/containers"].into_iter().flat_map(|path| array(pod, path)).collect();
    let mut ips: Vec<_> = array(pod, "/status/podIPs").iter().filter_map(|ip| text(ip, "/ip").parse().ok()).collect();
    if ips.is_empty() {
        ips.extend(text(pod, "/status/podIP").parse::<IpAddr>());
    }
    Pod {
        namespace: text(pod, "/metadata/namespace"),
        name: text(pod, "/metadata/name"),
        uid: text(pod, "/metadata/uid"),
        host_network,
        controller,
        mirror: pod.pointer("/metadata/annotations").is_some_and(|a| a.get(MIRROR).is_some()),
        local_storage: array(pod, "/spec/volumes").iter().any(|v| v.get("emptyDir").is_some()),
        phase: text(pod, "/status/phase"),
        terminating: pod.pointer("/metadata/deletionTimestamp").is_some(),
        ips,
        // A host-network pod has its ports defaulted to host ports; no plugin maps them.
        host_ports: if host_network { Vec::new() } else { host_ports(&containers) },
        images: images(&containers),
        ready: array(pod, "/status/conditions")
            .iter()
            .any(|c| text(c, "/type") == "Ready" && text(c, "/status") == "True"),
        eviction: None,
    }
}

fn host_ports(containers: &[&Value]) -> Vec<u16> {
    let ports = containers.iter().flat_map(|c| array(c, "/ports"));
    let mut ports: Vec<u16> =
        ports.filter_map(|p| p.get("hostPort")?.as_u64()?.try_into().ok()).filter(|p| *p != 0).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn images(containers: &[&Value]) -> Vec<String> {
    let mut images: Vec<String> = containers.iter().map(|c| text(c, "/image")).collect();
    images.retain(|i| !i.is_empty());
    images.sort_unstable();
    images.dedup();
    images
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn flag(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool).unwrap_or_default()
}

fn array<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn strings(value: Option<&Value>) -> BTreeMap<String, String> {
    let entries = value.and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}
