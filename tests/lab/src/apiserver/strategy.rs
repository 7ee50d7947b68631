//! The rules of the types: defaults of a new object, and which fields an update may touch.

use serde_json::{Value, json};

use super::error::{ApiError, ApiResult};
use super::pod_strategy;
use super::resources::ResourceType;
use super::store::{Inner, Key};
use super::value::{default_to, items, keep, new_uid, now, remove, text, unset};

/// Fills in what the server fills in when an object is created.
pub fn on_create(store: &Inner, kind: &ResourceType, object: &mut Value) -> ApiResult<()> {
    match kind.group_resource().as_str() {
        "pods" => pod_strategy::on_create(store, object),
        "nodes" => {
            sync_pod_cidrs(object);
            taint_not_ready(object);
            Ok(())
        }
        "namespaces" => {
            default_to(object, "spec", json!({"finalizers": ["kubernetes"]}));
            object["status"] = json!({"phase": "Active"});
            let name = object["metadata"]["name"].clone();
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
            Ok(())
        }
        "services" => service(store, object),
        "events" => event(object),
        "events.events.k8s.io" => new_event(object),
        "certificatesigningrequests.certificates.k8s.io" => signing_request(object),
        "customresourcedefinitions.apiextensions.k8s.io" => {
            definition(object);
            Ok(())
        }
        resource => {
            workload_defaults(resource, object);
            if kind.status && !kind.custom {
                object["status"] = json!({});
            }
            Ok(())
        }
    }
}

/// What the server creates beside a new object.
pub fn after_create(store: &mut Inner, kind: &ResourceType, object: &Value) {
    if kind.group_resource() != "namespaces" {
        return;
    }
    let namespace = text(&object["metadata"]["name"]);
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "default", "namespace": namespace, "uid": new_uid(), "creationTimestamp": now()}});
    store.put(Key::new("serviceaccounts", namespace, "default"), account);
}

/// Brings an update into the shape that may be stored: what the request may not touch is taken from the old object.
pub fn on_update(kind: &ResourceType, subresource: &str, old: &Value, new: &mut Value) -> ApiResult<()> {
    for field in ["apiVersion", "kind"] {
        keep(old, new, field);
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
    ] {
        keep(&old["metadata"], &mut new["metadata"], field);
    }
    let resource = kind.group_resource();
    if subresource == "status" {
        keep_all_but_status(kind, old, new);
    } else if kind.status {
        keep(old, new, "status");
    }
    if subresource.is_empty() {
        match resource.as_str() {
            "nodes" => node_update(old, new)?,
            "pods" => pod_strategy::on_update(old, new)?,
            "services" => keep_cluster_ip(old, new),
            _ => workload_defaults(&resource, new),
        }
    }
    if old["spec"] != new["spec"] && !old["metadata"]["generation"].is_null() {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(1);
        new["metadata"]["generation"] = json!(generation + 1);
    }
    Ok(())
}

/// A status update of a built-in type may also change labels and annotations; one of a custom type may not.
fn keep_all_but_status(kind: &ResourceType, old: &Value, new: &mut Value) {
    let status = remove(new, "status");
    let metadata = remove(new, "metadata");
    *new = old.clone();
    if let Some(status) = status {
        new["status"] = status;
    } else {
        remove(new, "status");
    }
    if kind.custom {
        return;
    }
    if let Some(metadata) = metadata {
        for field in ["labels", "annotations", "finalizers"] {
            keep(&metadata, &mut new["metadata"], field);
        }
    }
}

/// podCIDR and providerID go from unset to set, never further.
fn node_update(old: &Value, new: &mut Value) -> ApiResult<()> {
    if !new["spec"].is_object() {
        new["spec"] = json!({});
    }
    let name = text(&old["metadata"]["name"]).to_string();
    if new["spec"]["podCIDR"] != old["spec"]["podCIDR"] && new["spec"]["podCIDRs"] == old["spec"]["podCIDRs"] {
        remove(&mut new["spec"], "podCIDRs");
    }
    sync_pod_cidrs(new);
    let changed = |field: &str| !unset(&old["spec"][field]) && old["spec"][field] != new["spec"][field];
    if changed("podCIDRs") || changed("podCIDR") {
        let why = "Forbidden: node updates may not change podCIDR except from \"\" to valid";
        return Err(ApiError::invalid("Node", &name, "spec.podCIDRs", why));
    }
    if changed("providerID") {
        let why = "Forbidden: node updates may not change providerID except from \"\" to valid";
        return Err(ApiError::invalid("Node", &name, "spec.providerID", why));
    }
    if new["spec"]["unschedulable"] == false {
        remove(&mut new["spec"], "unschedulable");
    }
    if items(&new["spec"]["taints"]).next().is_none() {
        remove(&mut new["spec"], "taints");
    }
    Ok(())
}

/// The TaintNodesByCondition admission plugin: nothing is scheduled to a new node before its kubelet says that it is ready.
fn taint_not_ready(node: &mut Value) {
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let mut taints: Vec<Value> = items(&node["spec"]["taints"]).cloned().collect();
    if !taints.iter().any(|known| known["key"] == taint["key"] && known["effect"] == taint["effect"]) {
        taints.push(taint);
        node["spec"]["taints"] = json!(taints);
    }
}

fn sync_pod_cidrs(node: &mut Value) {
    let first = items(&node["spec"]["podCIDRs"]).next().cloned();
    match (first, node["spec"]["podCIDR"].clone()) {
        (None, single) if !unset(&single) => node["spec"]["podCIDRs"] = json!([single]),
        (Some(first), single) if unset(&single) => node["spec"]["podCIDR"] = first,
        _ => {}
    }
}

fn workload_defaults(resource: &str, object: &mut Value) {
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    match resource {
        "daemonsets.apps" => {
            default_to(spec, "updateStrategy", json!({"type": "RollingUpdate"}));
            if spec["updateStrategy"]["type"] == "RollingUpdate" {
                let rolling = &mut spec["updateStrategy"]["rollingUpdate"];
                if !rolling.is_object() {
                    *rolling = json!({});
                }
                default_to(rolling, "maxUnavailable", json!(1));
                default_to(rolling, "maxSurge", json!(0));
            }
            default_to(spec, "revisionHistoryLimit", json!(10));
        }
        "deployments.apps" | "replicasets.apps" | "statefulsets.apps" => {
            default_to(spec, "replicas", json!(1));
        }
        _ => return,
    }
    if spec["template"].is_object() {
        pod_strategy::spec_defaults(&mut spec["template"]["spec"]);
    }
}

/// Services without an address get the next one of 10.96.0.0/12.
fn service(store: &Inner, object: &mut Value) -> ApiResult<()> {
    object["status"] = json!({"loadBalancer": {}});
    let spec = &mut object["spec"];
    default_to(spec, "type", json!("ClusterIP"));
    default_to(spec, "sessionAffinity", json!("None"));
    for port in spec["ports"].as_array_mut().into_iter().flatten() {
        default_to(port, "protocol", json!("TCP"));
        let number = port["port"].clone();
        default_to(port, "targetPort", number);
    }
    if spec["clusterIP"].is_null() && spec["type"] != "ExternalName" {
        let taken = |wanted: &str| store.list("services", None).any(|(_, other)| other["spec"]["clusterIP"] == wanted);
        let free = (2..65_000u32)
            .map(|offset| std::net::Ipv4Addr::from(0x0a60_0000 + 256 + offset).to_string())
            .find(|address| !taken(address));
        spec["clusterIP"] = json!(free);
    }
    let address = spec["clusterIP"].clone();
    spec["clusterIPs"] = json!([address]);
    Ok(())
}

fn keep_cluster_ip(old: &Value, new: &mut Value) {
    for field in ["clusterIP", "clusterIPs"] {
        if new["spec"][field].is_null() {
            keep(&old["spec"], &mut new["spec"], field);
        }
    }
}

/// An event lies in the namespace of what it is about, and about what has none in `default`.
fn event(event: &Value) -> ApiResult<()> {
    let about = text(&event["involvedObject"]["namespace"]);
    let namespace = text(&event["metadata"]["namespace"]);
    if about == namespace || (about.is_empty() && namespace == "default") {
        return Ok(());
    }
    let why = format!("Invalid value: \"{about}\": does not match event.namespace");
    Err(ApiError::invalid("Event", text(&event["metadata"]["name"]), "involvedObject.namespace", &why))
}

/// What the group events.k8s.io asks for, beside what the older one does.
fn new_event(event: &Value) -> ApiResult<()> {
    let mut missing = Vec::new();
    if text(&event["eventTime"]).is_empty() {
        missing.push("eventTime: Required value".to_string());
    }
    let kind = text(&event["type"]);
    if !matches!(kind, "Normal" | "Warning") {
        missing.push(format!("type: Invalid value: \"{kind}\": has invalid value: {kind}"));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let name = text(&event["metadata"]["name"]);
    let message = format!("Event \"{name}\" is invalid: [{}]", missing.join(", "));
    Err(ApiError::new(422, "Invalid", message).about("Event", name))
}

fn signing_request(request: &mut Value) -> ApiResult<()> {
    request["status"] = json!({});
    let (name, kind) = (text(&request["metadata"]["name"]), "CertificateSigningRequest.certificates.k8s.io");
    if text(&request["spec"]["request"]).is_empty() {
        let why = "Invalid value: []byte(nil): PEM block type must be CERTIFICATE REQUEST";
        return Err(ApiError::invalid(kind, name, "spec.request", why));
    }
    if items(&request["spec"]["usages"]).next().is_none() {
        return Err(ApiError::invalid(kind, name, "spec.usages", "Required value: usages must be provided"));
    }
    Ok(())
}

/// A definition is served at once; by a real server after a moment.
fn definition(object: &mut Value) {
    let names = object["spec"]["names"].clone();
    let version = object["spec"]["versions"][0]["name"].clone();
    let condition = |name: &str, reason: &str| json!({"type": name, "status": "True", "reason": reason, "message": "", "lastTransitionTime": now()});
    object["status"] = json!({"acceptedNames": names, "storedVersions": [version],
        "conditions": [condition("NamesAccepted", "NoConflicts"), condition("Established", "InitialNamesAccepted")]});
}
