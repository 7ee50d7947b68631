//! What several controllers ask of Pods, and how they make them.

use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::apiserver::value::{controller_of, is_true, name_suffix, text};

/// Not being deleted, not finished.
pub fn is_active(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null() && !is_finished(pod)
}

/// Succeeded or failed.
pub fn is_finished(pod: &Value) -> bool {
    matches!(text(&pod["status"]["phase"]), "Succeeded" | "Failed")
}

/// Serves.
pub fn is_ready(pod: &Value) -> bool {
    is_active(pod) && is_true(pod, "Ready")
}

/// Those that an object controls.
pub fn controlled_by<'a>(pods: &'a [Arc<Value>], owner: &'a Value) -> impl Iterator<Item = &'a Arc<Value>> {
    pods.iter().filter(|pod| controller_of(pod).is_some_and(|reference| reference["uid"] == owner["metadata"]["uid"]))
}

/// A hash of a Pod template, in ten digits.
pub fn template_hash(template: &Value) -> String {
    let digest = Sha256::digest(template.to_string());
    digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}

/// The reference that makes `owner` the controller of what carries it.
pub fn owned_by(owner: &Value) -> Value {
    json!([{"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true}])
}

/// A Pod from an owner's template, with one more label.
pub fn from_template(owner: &Value, label: &str, hash: &str) -> Value {
    let template = &owner["spec"]["template"];
    let mut metadata = template["metadata"].clone();
    if !metadata.is_object() {
        metadata = json!({});
    }
    let prefix = format!("{}-", text(&owner["metadata"]["name"]));
    metadata["name"] = json!(format!("{prefix}{}", name_suffix()));
    metadata["generateName"] = json!(prefix);
    metadata["namespace"] = owner["metadata"]["namespace"].clone();
    metadata["labels"][label] = json!(hash);
    metadata["ownerReferences"] = owned_by(owner);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

/// An absolute number or a percentage of `total`; percentages of a bound that protects are rounded up.
pub fn scaled(value: &Value, total: i64, round_up: bool) -> i64 {
    if let Some(number) = value.as_i64() {
        return number;
    }
    let percent: i64 = text(value).trim_end_matches('%').parse().unwrap_or(0);
    (total * percent + if round_up { 99 } else { 0 }) / 100
}
