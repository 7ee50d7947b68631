//! Server-side apply: what a manager applied earlier and leaves out now is removed; another applier's value is a conflict.
//!
//! Only fields set by `apply` have owners here; what was written otherwise can be taken over without force.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::strategic::{ListKind, list_kind};
use crate::apiserver::error::{ApiError, ApiResult};
use crate::apiserver::value::{items, now, remove, text};

/// Who applies.
pub struct Applier<'a> {
    /// `fieldManager`.
    pub manager: &'a str,
    /// Take over fields of others.
    pub force: bool,
}

/// A path in an object; items of keyed lists are named `[key=value]`.
type Path = Vec<String>;

impl Applier<'_> {
    /// The object after the apply.
    pub fn run(&self, old: &Value, config: &Value) -> ApiResult<Value> {
        if self.manager.is_empty() {
            return Err(ApiError::bad_request(
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            ));
        }
        let mut config = config.clone();
        if let Some(metadata) = config.get_mut("metadata") {
            remove(metadata, "managedFields");
        }
        let mut wanted = BTreeMap::new();
        leaves("", &config, &mut Vec::new(), &mut wanted);
        wanted.retain(|path, _| !identifies(path));
        self.refuse_conflicts(old, &wanted)?;
        let mut object = old.clone();
        let applied_earlier = owned_by(old, |manager| manager == self.manager);
        for path in applied_earlier.iter().filter(|path| !wanted.contains_key(*path)) {
            if !owned_by(old, |manager| manager != self.manager).contains(path) {
                prune(&mut object, path);
            }
        }
        set_all("", &mut object, &config);
        self.note(&mut object, &wanted);
        Ok(object)
    }

    fn refuse_conflicts(&self, old: &Value, wanted: &BTreeMap<Path, Value>) -> ApiResult<()> {
        if self.force {
            return Ok(());
        }
        for entry in items(&old["metadata"]["managedFields"]) {
            if entry["manager"] == self.manager || entry["operation"] != "Apply" {
                continue;
            }
            for path in paths_of(entry) {
                let differs = wanted.get(&path).is_some_and(|value| lookup(old, &path) != Some(value));
                if differs {
                    let field = format!(".{}", path.join("."));
                    let manager = text(&entry["manager"]);
                    let message = format!("Apply failed with 1 conflict: conflict with \"{manager}\": {field}");
                    let mut error = ApiError::new(409, "Conflict", message);
                    error.details = Some(Box::new(json!({"causes": [{"reason": "FieldManagerConflict",
                        "message": format!("conflict with \"{manager}\""), "field": field}]})));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Records what this manager owns now, and takes from others what it took over.
    fn note(&self, object: &mut Value, wanted: &BTreeMap<Path, Value>) {
        let mut entries: Vec<Value> = items(&object["metadata"]["managedFields"]).cloned().collect();
        entries.retain(|entry| entry["manager"] != self.manager || entry["operation"] != "Apply");
        if self.force {
            for entry in &mut entries {
                let kept: Vec<Path> = paths_of(entry).into_iter().filter(|path| !wanted.contains_key(path)).collect();
                entry["fieldsV1"] = fields(kept.iter());
            }
        }
        entries.push(json!({"manager": self.manager, "operation": "Apply", "time": now(),
            "apiVersion": object["apiVersion"], "fieldsType": "FieldsV1", "fieldsV1": fields(wanted.keys())}));
        object["metadata"]["managedFields"] = Value::Array(entries);
    }
}

fn identifies(path: &Path) -> bool {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    matches!(path.as_slice(), ["apiVersion" | "kind"] | ["metadata", "name" | "namespace" | "resourceVersion" | "uid"])
}

/// Every leaf of a configuration with its path.
fn leaves(field: &str, value: &Value, path: &mut Path, found: &mut BTreeMap<Path, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                path.push(key.clone());
                let parent = if value.is_array() { field } else { key };
                keyed_leaves(parent, key, value, path, found);
                path.pop();
            }
        }
        _ => {
            found.insert(path.clone(), value.clone());
        }
    }
}

fn keyed_leaves(parent: &str, field: &str, value: &Value, path: &mut Path, found: &mut BTreeMap<Path, Value>) {
    match (value, list_kind(parent, field)) {
        (Value::Array(list), ListKind::Keyed(key)) if !list.is_empty() => {
            for item in list {
                path.push(format!("[{key}={}]", item[key]));
                leaves(field, item, path, found);
                path.pop();
            }
        }
        (Value::Array(_), _) => {
            found.insert(path.clone(), value.clone());
        }
        _ => leaves(field, value, path, found),
    }
}

fn item_index(list: &Value, step: &str) -> Option<usize> {
    let (key, wanted) = step.strip_prefix('[')?.strip_suffix(']')?.split_once('=')?;
    let wanted: Value = serde_json::from_str(wanted).ok()?;
    list.as_array()?.iter().position(|item| item[key] == wanted)
}

fn lookup<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, step| match item_index(value, step) {
        Some(at) => value.get(at),
        None => value.get(step),
    })
}

/// Removes a leaf, and what it leaves empty above it.
fn prune(object: &mut Value, path: &[String]) {
    let Some((step, rest)) = path.split_first() else { return };
    if let Some(at) = item_index(object, step) {
        let Some(list) = object.as_array_mut() else { return };
        prune(&mut list[at], rest);
        let only_key = list[at].as_object().is_some_and(|item| item.len() <= 1);
        if only_key || rest.is_empty() {
            list.remove(at);
        }
    } else if rest.is_empty() {
        remove(object, step);
    } else if let Some(inner) = object.get_mut(step) {
        prune(inner, rest);
        let empty =
            inner.as_object().is_some_and(serde_json::Map::is_empty) || inner.as_array().is_some_and(Vec::is_empty);
        if empty {
            remove(object, step);
        }
    }
}

fn set_all(parent: &str, target: &mut Value, config: &Value) {
    let Some(config) = config.as_object() else {
        *target = config.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (field, value) in config {
        match (value, list_kind(parent, field)) {
            (Value::Array(list), ListKind::Keyed(key)) if target[field].is_array() => {
                for item in list {
                    let step = format!("[{key}={}]", item[key]);
                    match item_index(&target[field], &step) {
                        Some(at) => set_all(field, &mut target[field][at], item),
                        None => target[field].as_array_mut().into_iter().for_each(|all| all.push(item.clone())),
                    }
                }
            }
            _ => set_all(field, &mut target[field], value),
        }
    }
}

/// FieldsV1 with one flat entry per leaf; readers other than this file only see that there is an owner.
fn fields<'a>(paths: impl Iterator<Item = &'a Path>) -> Value {
    let flat = paths.map(|path| (json!(path).to_string(), json!({})));
    Value::Object(flat.collect())
}

fn paths_of(entry: &Value) -> Vec<Path> {
    let keys = entry["fieldsV1"].as_object().into_iter().flat_map(|fields| fields.keys());
    keys.filter_map(|key| serde_json::from_str(key).ok()).collect()
}

fn owned_by(object: &Value, wanted: impl Fn(&str) -> bool) -> Vec<Path> {
    let entries = items(&object["metadata"]["managedFields"]);
    entries
        .filter(|entry| entry["operation"] == "Apply" && wanted(text(&entry["manager"])))
        .flat_map(paths_of)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_removed_and_what_others_apply_is_a_conflict() {
        let old = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1"}});
        let one = Applier { manager: "one", force: false };
        let config =
            |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
        let first = one.run(&old, &config(json!({"y": "1", "z": "1"}))).unwrap();
        let second = one.run(&first, &config(json!({"y": "2"}))).unwrap();
        assert_eq!(second["data"], json!({"x": "1", "y": "2"}));
        let two = Applier { manager: "two", force: false };
        assert_eq!(two.run(&second, &config(json!({"y": "3"}))).unwrap_err().code, 409);
        let two = Applier { manager: "two", force: true };
        assert_eq!(two.run(&second, &config(json!({"y": "3"}))).unwrap()["data"]["y"], "3");
    }
}
