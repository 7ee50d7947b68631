//! What goes with what: dependents with their owners, contents with their namespace.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::access::Access;
use crate::apiserver::value::{items, text};
use crate::client::ClientResult;

/// Kinds that have owners here, or live in namespaces that tests delete.
const KINDS: &[&str] = &[
    "deployments.apps",
    "replicasets.apps",
    "daemonsets.apps",
    "pods",
    "services",
    "endpoints",
    "configmaps",
    "secrets",
    "serviceaccounts",
    "poddisruptionbudgets.policy",
    "leases.coordination.k8s.io",
    "events",
    "roles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
];

/// Deletes orphans and the contents of namespaces that are going.
pub fn run(access: &Access) -> ClientResult<()> {
    let mut objects: Vec<(&str, Arc<Value>)> = Vec::new();
    for kind in KINDS {
        objects.extend(access.list(kind)?.into_iter().map(|object| (*kind, object)));
    }
    let nodes = access.list("nodes")?;
    let alive: HashSet<&str> =
        objects.iter().map(|(_, object)| object).chain(&nodes).map(|object| text(&object["metadata"]["uid"])).collect();
    for (kind, object) in &objects {
        let mut owners = items(&object["metadata"]["ownerReferences"]).peekable();
        let present = object["metadata"]["deletionTimestamp"].is_null();
        if present && owners.peek().is_some() && owners.all(|owner| !alive.contains(text(&owner["uid"]))) {
            access.delete(kind, object, None);
        }
    }
    for namespace in access.list("namespaces")? {
        if !namespace["metadata"]["deletionTimestamp"].is_null() {
            empty(access, &namespace, &objects);
        }
    }
    Ok(())
}

/// Deletes what is left in a namespace; when nothing is, lets the namespace go.
fn empty(access: &Access, namespace: &Value, objects: &[(&str, Arc<Value>)]) {
    let inside: Vec<&(&str, Arc<Value>)> =
        objects.iter().filter(|(_, object)| object["metadata"]["namespace"] == namespace["metadata"]["name"]).collect();
    for (kind, object) in &inside {
        if object["metadata"]["deletionTimestamp"].is_null() {
            access.delete(kind, object, None);
        }
    }
    if inside.is_empty() {
        let mut finished = namespace.clone();
        finished["spec"]["finalizers"] = json!([]);
        access.finalize(&finished);
    }
}
