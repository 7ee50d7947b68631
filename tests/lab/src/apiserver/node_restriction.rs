//! NodeRestriction: the admission plugin that keeps a kubelet's writes to its own Node, Pods and Lease.
//!
//! Follows plugin/pkg/admission/noderestriction; wording as measured on 1.20.2 and 1.36.2.

use serde_json::Value;

use super::error::{ApiError, ApiResult};
use super::options::Regime;
use super::store::Inner;
use super::value::{items, text};

/// A write that admission looks at.
pub struct Attempt<'a> {
    /// "nodes", "leases.coordination.k8s.io".
    pub resource: &'a str,
    /// "status", "eviction", "token" or "".
    pub subresource: &'a str,
    /// "create", "update" (patches too) or "delete".
    pub verb: &'a str,
    /// Namespace.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
    /// What is there.
    pub old: Option<&'a Value>,
    /// What shall be there.
    pub new: Option<&'a Value>,
}

/// Refuses what the node `node` may not write.
pub fn admit(store: &Inner, regime: Regime, node: &str, attempt: &Attempt<'_>) -> ApiResult<()> {
    match (attempt.resource, attempt.subresource) {
        ("pods", "") => pods(node, attempt),
        ("pods", "status") => pod_status(node, attempt),
        ("pods", "eviction") => eviction(store, node, attempt),
        ("nodes", _) => nodes(regime, node, attempt),
        ("serviceaccounts", "token") => token(store, regime, node, attempt),
        ("leases.coordination.k8s.io", _) => lease(node, attempt),
        _ => Ok(()),
    }
}

fn forbid(attempt: &Attempt<'_>, why: &str) -> ApiError {
    ApiError::forbidden(attempt.resource, attempt.name, why)
}

fn pods(node: &str, attempt: &Attempt<'_>) -> ApiResult<()> {
    match (attempt.verb, attempt.new, attempt.old) {
        ("create", Some(pod), _) => mirror_pod(node, attempt, pod),
        ("delete", _, Some(pod)) if text(&pod["spec"]["nodeName"]) != node => {
            Err(forbid(attempt, &format!("node \"{node}\" can only delete pods with spec.nodeName set to itself")))
        }
        _ => Ok(()),
    }
}

fn mirror_pod(node: &str, attempt: &Attempt<'_>, pod: &Value) -> ApiResult<()> {
    const MIRROR: &str = "kubernetes.io/config.mirror";
    if pod["metadata"]["annotations"][MIRROR].is_null() {
        let why = format!("pod does not have \"{MIRROR}\" annotation, node \"{node}\" can only create mirror pods");
        return Err(forbid(attempt, &why));
    }
    if text(&pod["spec"]["nodeName"]) != node {
        let why = format!("node \"{node}\" can only create pods with spec.nodeName set to itself");
        return Err(forbid(attempt, &why));
    }
    let owners: Vec<&Value> = items(&pod["metadata"]["ownerReferences"]).collect();
    let own = |owner: &&Value| owner["kind"] == "Node" && owner["name"] == node && owner["controller"] == true;
    if owners.len() != 1 || !owners.iter().all(own) {
        let why = format!("node \"{node}\" can only create pods with an owner reference set to itself");
        return Err(forbid(attempt, &why));
    }
    let account = text(&pod["spec"]["serviceAccountName"]);
    let refers = |field: &str| items(&pod["spec"]["volumes"]).any(|volume| !volume[field].is_null());
    for (what, present) in [
        ("a service account", !account.is_empty()),
        ("secrets", refers("secret")),
        ("configmaps", refers("configMap")),
        ("persistentvolumeclaims", refers("persistentVolumeClaim")),
    ] {
        if present {
            return Err(forbid(attempt, &format!("node \"{node}\" can not create pods that reference {what}")));
        }
    }
    Ok(())
}

fn pod_status(node: &str, attempt: &Attempt<'_>) -> ApiResult<()> {
    let (Some(old), Some(new)) = (attempt.old, attempt.new) else { return Ok(()) };
    if text(&old["spec"]["nodeName"]) != node {
        let why = format!("node \"{node}\" can only update pod status for pods with spec.nodeName set to itself");
        return Err(forbid(attempt, &why));
    }
    if changed_keys(&old["metadata"]["labels"], &new["metadata"]["labels"]).next().is_some() {
        return Err(forbid(attempt, &format!("node \"{node}\" cannot update labels through pod status")));
    }
    Ok(())
}

fn eviction(store: &Inner, node: &str, attempt: &Attempt<'_>) -> ApiResult<()> {
    let Some(pod) = store.find("pods", attempt.namespace, attempt.name) else {
        // The plugin names the resource in the singular here.
        return Err(ApiError::not_found("pod", attempt.name));
    };
    if text(&pod["spec"]["nodeName"]) != node {
        let why = format!("node {node} can only evict pods with spec.nodeName set to itself");
        return Err(forbid(attempt, &why));
    }
    Ok(())
}

fn nodes(regime: Regime, node: &str, attempt: &Attempt<'_>) -> ApiResult<()> {
    if attempt.name != node {
        let why = format!("node \"{node}\" is not allowed to modify node \"{}\"", attempt.name);
        return Err(forbid(attempt, &why));
    }
    let Some(new) = attempt.new else { return Ok(()) };
    let Some(old) = attempt.old else {
        let forbidden = forbidden_labels(&Value::Null, &new["metadata"]["labels"]);
        if !forbidden.is_empty() {
            let why = format!("is not allowed to set the following labels: {}", forbidden.join(", "));
            return Err(forbid(attempt, &format!("node \"{node}\" {why}")));
        }
        return Ok(());
    };
    let taints = |object: &Value| items(&object["spec"]["taints"]).cloned().collect::<Vec<_>>();
    if taints(old) != taints(new) {
        return Err(forbid(attempt, &format!("node \"{node}\" is not allowed to modify taints")));
    }
    let forbidden = forbidden_labels(&old["metadata"]["labels"], &new["metadata"]["labels"]);
    if !forbidden.is_empty() {
        let why = format!("is not allowed to modify labels: {}", forbidden.join(", "));
        return Err(forbid(attempt, &why));
    }
    // CVE-2025-5187.
    let owners = |object: &Value| items(&object["metadata"]["ownerReferences"]).cloned().collect::<Vec<_>>();
    if regime == Regime::V1_36 && owners(old) != owners(new) {
        return Err(forbid(attempt, &format!("node \"{node}\" is not allowed to modify ownerReferences")));
    }
    Ok(())
}

fn changed_keys<'a>(old: &'a Value, new: &'a Value) -> impl Iterator<Item = &'a String> {
    let keys = |map: &'a Value| map.as_object().into_iter().flat_map(|map| map.keys());
    keys(old)
        .chain(keys(new).filter(|key| old.get(key.as_str()).is_none()))
        .filter(|key| old.get(key.as_str()) != new.get(key.as_str()))
}

/// Changed label keys that a kubelet may not touch, sorted.
fn forbidden_labels(old: &Value, new: &Value) -> Vec<String> {
    let mut keys: Vec<String> = changed_keys(old, new).filter(|key| !label_allowed(key)).cloned().collect();
    keys.sort();
    keys
}

/// pkg/apis/core/well_known_labels: everything outside kubernetes.io and k8s.io, and a few names inside.
fn label_allowed(key: &str) -> bool {
    const ALLOWED: &[&str] = &[
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "beta.kubernetes.io/instance-type",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "node.kubernetes.io/instance-type",
    ];
    let Some((domain, _)) = key.split_once('/') else { return true };
    let within = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    if within("kubelet.kubernetes.io") || within("node.kubernetes.io") || ALLOWED.contains(&key) {
        return true;
    }
    !within("kubernetes.io") && !within("k8s.io")
}

fn token(store: &Inner, regime: Regime, node: &str, attempt: &Attempt<'_>) -> ApiResult<()> {
    let Some(request) = attempt.new else { return Ok(()) };
    let bound = &request["spec"]["boundObjectRef"];
    if bound["kind"] != "Pod" || text(&bound["name"]).is_empty() {
        return Err(forbid(attempt, "node requested token not bound to a pod"));
    }
    if text(&bound["uid"]).is_empty() {
        return Err(forbid(attempt, "node requested token with a pod binding without a uid"));
    }
    let Some(pod) = store.find("pods", attempt.namespace, text(&bound["name"])) else {
        return Err(ApiError::not_found("pod", text(&bound["name"])));
    };
    if pod["metadata"]["uid"] != bound["uid"] {
        let why =
            format!("the UID in the bound object reference ({}) does not match the UID in record", text(&bound["uid"]));
        return Err(ApiError::conflict("pods", text(&bound["name"]), &why));
    }
    if text(&pod["spec"]["nodeName"]) != node {
        return Err(forbid(attempt, "node requested token bound to a pod scheduled on a different node"));
    }
    if regime == Regime::V1_20 {
        return Ok(());
    }
    let asked: Vec<&str> = items(&request["spec"]["audiences"]).map(text).collect();
    let asked = if asked.is_empty() { vec![""] } else { asked };
    match asked.into_iter().find(|audience| !mounts_audience(&pod, audience)) {
        Some(audience) => Err(forbid(
            attempt,
            &format!(
                "audience \"{audience}\" not found in pod spec volume, system:node:{node} is not authorized to request tokens for this audience"
            ),
        )),
        None => Ok(()),
    }
}

/// ServiceAccountNodeAudienceRestriction: the pod itself must mount a token for that audience.
fn mounts_audience(pod: &Value, audience: &str) -> bool {
    let sources = items(&pod["spec"]["volumes"]).flat_map(|volume| items(&volume["projected"]["sources"]));
    sources.filter_map(|source| source.get("serviceAccountToken")).any(|token| text(&token["audience"]) == audience)
}

fn lease(node: &str, attempt: &Attempt<'_>) -> ApiResult<()> {
    if attempt.namespace != "kube-node-lease" {
        return Err(forbid(attempt, r#"can only access leases in the "kube-node-lease" system namespace"#));
    }
    if attempt.name != node {
        return Err(forbid(attempt, "can only access node lease with the same name as the requesting node"));
    }
    Ok(())
}
