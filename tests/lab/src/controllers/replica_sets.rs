//! Deployments, through ReplicaSets, to Pods.

use std::sync::Arc;

use serde_json::{Value, json};

use super::access::Access;
use super::pods::{controlled_by, from_template, is_active, is_ready, owned_by, template_hash};
use crate::apiserver::value::{controller_of, text};
use crate::client::ClientResult;

const HASH: &str = "pod-template-hash";

/// Brings every Deployment and ReplicaSet in line.
pub fn run(access: &Access) -> ClientResult<()> {
    let pods = access.list("pods")?;
    let sets = access.list("replicasets.apps")?;
    for deployment in access.list("deployments.apps")? {
        if deployment["metadata"]["deletionTimestamp"].is_null() {
            roll_out(access, &deployment, &sets);
        }
    }
    for set in sets {
        if set["metadata"]["deletionTimestamp"].is_null() {
            scale(access, &set, &pods);
        }
    }
    Ok(())
}

/// One ReplicaSet per template: the new one at full size, the old ones only while the new one does not serve.
fn roll_out(access: &Access, deployment: &Value, sets: &[Arc<Value>]) {
    let hash = template_hash(&deployment["spec"]["template"]);
    let replicas = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
    let own: Vec<&Arc<Value>> = sets
        .iter()
        .filter(|set| controller_of(set).is_some_and(|owner| owner["uid"] == deployment["metadata"]["uid"]))
        .collect();
    let current = own.iter().find(|set| set["metadata"]["labels"][HASH] == hash.as_str());
    let Some(current) = current else {
        access.create("replicasets.apps", &replica_set(deployment, &hash, replicas));
        return;
    };
    if current["spec"]["replicas"] != replicas {
        access.patch("replicasets.apps", current, "", &json!({"spec": {"replicas": replicas}}));
    }
    let ready = count(current, "readyReplicas");
    let old = own.iter().filter(|set| !Arc::ptr_eq(set, current));
    let mut total = count(current, "replicas");
    for set in old {
        total += count(set, "replicas");
        if ready >= replicas && set["spec"]["replicas"] != 0 {
            access.patch("replicasets.apps", set, "", &json!({"spec": {"replicas": 0}}));
        }
    }
    let status = json!({"observedGeneration": deployment["metadata"]["generation"], "replicas": total,
        "updatedReplicas": count(current, "replicas"), "readyReplicas": ready, "availableReplicas": ready,
        "unavailableReplicas": (replicas - ready).max(0)});
    if deployment["status"] != status {
        access.patch("deployments.apps", deployment, "status", &json!({"status": status}));
    }
}

fn count(set: &Value, field: &str) -> i64 {
    set["status"][field].as_i64().unwrap_or(0)
}

fn replica_set(deployment: &Value, hash: &str, replicas: i64) -> Value {
    let mut template = deployment["spec"]["template"].clone();
    template["metadata"]["labels"][HASH] = json!(hash);
    let mut selector = deployment["spec"]["selector"].clone();
    selector["matchLabels"][HASH] = json!(hash);
    json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": format!("{}-{hash}", text(&deployment["metadata"]["name"])),
            "namespace": deployment["metadata"]["namespace"], "labels": template["metadata"]["labels"],
            "ownerReferences": owned_by(deployment)},
        "spec": {"replicas": replicas, "selector": selector, "template": template}})
}

/// A Pod that is going away is replaced at once; surplus goes from those that serve least.
fn scale(access: &Access, set: &Value, pods: &[Arc<Value>]) {
    let mut own: Vec<&Arc<Value>> = controlled_by(pods, set).filter(|pod| is_active(pod)).collect();
    let wanted = usize::try_from(set["spec"]["replicas"].as_i64().unwrap_or(1)).unwrap_or(0);
    let hash = text(&set["metadata"]["labels"][HASH]).to_string();
    for _ in own.len()..wanted {
        access.create("pods", &from_template(set, HASH, &hash));
    }
    own.sort_by_key(|pod| (!is_ready(pod), text(&pod["metadata"]["creationTimestamp"]).to_string()));
    for pod in own.iter().skip(wanted) {
        access.delete("pods", pod, None);
    }
    let ready = own.iter().filter(|pod| is_ready(pod)).count();
    let status = json!({"replicas": own.len(), "readyReplicas": ready, "availableReplicas": ready,
        "observedGeneration": set["metadata"]["generation"]});
    if set["status"] != status {
        access.patch("replicasets.apps", set, "status", &json!({"status": status}));
    }
}
