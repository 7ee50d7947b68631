//! Strategic merge patch: as a merge patch, but lists of the built-in types that have a merge key merge by it.

use serde_json::{Value, json};

/// How the list under a field merges.
pub enum ListKind {
    /// Items with the same value of this key are one item.
    Keyed(&'static str),
    /// A set of plain values.
    Set,
    /// Replaced whole.
    Atomic,
}

/// The patchStrategy tags of the types that the lab serves. `parent` tells lists of one name apart.
pub fn list_kind(parent: &str, field: &str) -> ListKind {
    match field {
        "conditions" | "addresses" => ListKind::Keyed("type"),
        "containers" | "initContainers" | "volumes" | "env" | "imagePullSecrets" | "secrets" => ListKind::Keyed("name"),
        "volumeMounts" => ListKind::Keyed("mountPath"),
        "ownerReferences" => ListKind::Keyed("uid"),
        "ports" if parent == "spec" => ListKind::Keyed("port"),
        "ports" => ListKind::Keyed("containerPort"),
        "podIPs" | "hostAliases" => ListKind::Keyed("ip"),
        "finalizers" | "podCIDRs" => ListKind::Set,
        _ => ListKind::Atomic,
    }
}

/// Merges `patch` into `target`.
pub fn merge(target: &mut Value, patch: &Value) {
    merge_under("", target, patch);
}

fn merge_under(parent: &str, target: &mut Value, patch: &Value) {
    let Some(changes) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if patch["$patch"] == "replace" || !target.is_object() {
        *target = json!({});
    }
    retain_keys(target, &patch["$retainKeys"]);
    for (field, value) in changes {
        if let Some(field) = field.strip_prefix("$deleteFromPrimitiveList/") {
            delete_from(target, field, value);
        } else if !field.starts_with('$') {
            merge_field(parent, target, field, value);
        }
    }
}

fn merge_field(parent: &str, target: &mut Value, field: &str, value: &Value) {
    let Some(object) = target.as_object_mut() else { return };
    if value.is_null() || value["$patch"] == "delete" {
        object.shift_remove(field);
        return;
    }
    let current = object.entry(field.to_string()).or_insert(Value::Null);
    match (value, list_kind(parent, field)) {
        (Value::Array(patch), ListKind::Keyed(key)) => merge_list(current, patch, key, field),
        (Value::Array(patch), ListKind::Set) => {
            let mut merged = current.as_array().cloned().unwrap_or_default();
            let new: Vec<Value> = patch.iter().filter(|item| !merged.contains(item)).cloned().collect();
            merged.extend(new);
            *current = Value::Array(merged);
        }
        (Value::Array(_), ListKind::Atomic) => *current = value.clone(),
        _ => merge_under(field, current, value),
    }
}

fn merge_list(current: &mut Value, patch: &[Value], key: &str, field: &str) {
    if patch.iter().any(|item| item["$patch"] == "replace" && item[key].is_null()) {
        // Taken as it is: a Node has two addresses of one type in a dual-stack cluster.
        let kept = patch.iter().filter(|item| item["$patch"].is_null());
        *current = kept.cloned().collect();
        return;
    }
    let mut merged = current.as_array().cloned().unwrap_or_default();
    for item in patch {
        if item[key].is_null() {
            continue;
        }
        let at = merged.iter().position(|old| old[key] == item[key]);
        match (at, item["$patch"].as_str()) {
            (Some(at), Some("delete")) => {
                merged.remove(at);
            }
            (None, Some("delete")) => {}
            (Some(at), _) => merge_under(field, &mut merged[at], item),
            (None, _) => {
                let mut fresh = json!({});
                merge_under(field, &mut fresh, item);
                merged.push(fresh);
            }
        }
    }
    *current = Value::Array(merged);
}

fn retain_keys(target: &mut Value, keys: &Value) {
    let (Some(object), Some(keys)) = (target.as_object_mut(), keys.as_array()) else { return };
    object.retain(|key, _| keys.iter().any(|kept| kept == key));
}

fn delete_from(target: &mut Value, field: &str, gone: &Value) {
    let (Some(list), Some(gone)) = (target[field].as_array_mut(), gone.as_array()) else { return };
    list.retain(|item| !gone.contains(item));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_merge_by_type_and_taints_are_replaced() {
        let mut node = json!({"spec": {"taints": [{"key": "a"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Disk", "status": "False"}]}});
        merge(
            &mut node,
            &json!({"spec": {"taints": [{"key": "b"}]},
                "status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "Net", "status": "True"},
                    {"type": "Disk", "$patch": "delete"}]}}),
        );
        assert_eq!(node["spec"]["taints"], json!([{"key": "b"}]));
        assert_eq!(
            node["status"]["conditions"],
            json!([{"type": "Ready", "status": "False"}, {"type": "Net", "status": "True"}])
        );
    }
}
