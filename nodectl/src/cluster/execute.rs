//! Doing the writes. Each is a compare-and-swap against what the decision saw: an object that somebody changed
//! meanwhile is looked at again, and where the very fields differ, everything is decided anew.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};

use super::change::{Action, Change};
use super::object::{Kind, ObjectRef, set, text};
use crate::host::kube::{Kube, KubeError, Patch, Write};

/// How often one object is tried again when others write to it at the same time.
const ATTEMPTS: usize = 10;

/// What came of a list of writes.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All were done.
    Done,
    /// One met an object that is not as the decision saw it; those before it were done.
    Stale(String),
}

/// Does the writes in order and calls `done` after each that changed something.
pub fn execute(kube: &Kube, changes: &[Change], mut done: impl FnMut(&Change)) -> Result<Outcome> {
    // An object can be written twice; the second write builds on the first one's answer.
    let mut versions: BTreeMap<ObjectRef, String> = BTreeMap::new();
    for change in changes {
        tracing::info!(object = %change.target, action = ?change.action, "writing");
        let step = match change.action {
            Action::Create => create(kube, change),
            Action::Update => update(kube, change, &mut versions),
            Action::Delete => delete(kube, change),
        };
        match step? {
            Step::Changed => done(change),
            Step::AlreadySo => {}
            Step::Stale => return Ok(Outcome::Stale(change.target.to_string())),
        }
    }
    Ok(Outcome::Done)
}

enum Step {
    Changed,
    AlreadySo,
    Stale,
}

fn create(kube: &Kube, change: &Change) -> Result<Step, KubeError> {
    let Some(after) = &change.after else { return Ok(Step::AlreadySo) };
    let collection = change.target.kind.collection(&change.target.namespace);
    let error = match kube.post(&collection, after, Write::REAL) {
        Ok(_) => return Ok(Step::Changed),
        Err(error) => error,
    };
    if !error.already_exists() && !error.is_unreachable() {
        return Err(error);
    }
    // Somebody was quicker, or the answer was lost after the server had stored it.
    match kube.get_optional(&change.target.path())? {
        Some(current) if contains(&current, after) => Ok(Step::AlreadySo),
        Some(_) => Ok(Step::Stale),
        None => Err(error),
    }
}

fn update(kube: &Kube, change: &Change, versions: &mut BTreeMap<ObjectRef, String>) -> Result<Step, KubeError> {
    let target = &change.target;
    let seen = change.before.as_ref().and_then(|b| text(b, "/metadata/resourceVersion"));
    let mut version = versions.get(target).cloned().or_else(|| seen.map(str::to_owned));
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let mut patch = change.patch();
        if let Some(version) = &version {
            set(&mut patch, &["metadata", "resourceVersion"], json!(version));
        }
        let error = match kube.patch(&target.path(), Patch::Merge, &patch, Write::REAL) {
            Ok(stored) => {
                versions.extend(version_of(&stored).map(|v| (target.clone(), v)));
                return Ok(Step::Changed);
            }
            Err(error) if error.is_not_found() => return Ok(Step::Stale),
            Err(error) if error.is_conflict() => error,
            Err(error) => return Err(error),
        };
        let Some(current) = kube.get_optional(&target.path())? else { return Ok(Step::Stale) };
        match compare(change, &current) {
            Same::AsBefore => version = version_of(&current),
            Same::AsAfter => {
                versions.extend(version_of(&current).map(|v| (target.clone(), v)));
                return Ok(Step::AlreadySo);
            }
            Same::Neither => return Ok(Step::Stale),
        }
        last = Some(error);
    }
    last.map_or(Ok(Step::Stale), Err)
}

fn delete(kube: &Kube, change: &Change) -> Result<Step, KubeError> {
    let before = change.before.as_ref();
    let mut preconditions = json!({});
    if let Some(uid) = before.and_then(|b| text(b, "/metadata/uid")) {
        set(&mut preconditions, &["uid"], json!(uid));
    }
    // Controllers write the status of the others all the time; of these, every change is a change of their content.
    let exact = matches!(change.target.kind, Kind::IPAMBlock | Kind::BlockAffinity | Kind::IPAMHandle);
    if let Some(version) = before.and_then(|b| text(b, "/metadata/resourceVersion")).filter(|_| exact) {
        set(&mut preconditions, &["resourceVersion"], json!(version));
    }
    let options = json!({
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": preconditions,
        "propagationPolicy": "Background",
    });
    match kube.delete(&change.target.path(), Some(&options), Write::REAL) {
        Ok(_) => Ok(Step::Changed),
        Err(error) if error.is_not_found() => Ok(Step::AlreadySo),
        Err(error) if error.is_conflict() => Ok(Step::Stale),
        Err(error) => Err(error),
    }
}

enum Same {
    AsBefore,
    AsAfter,
    Neither,
}

/// Looks whether the fields that a change touches are still as they were, or as they are to be already.
fn compare(change: &Change, current: &Value) -> Same {
    let patch = change.patch();
    if touched(change.after.as_ref(), &patch) == touched(Some(current), &patch) {
        return Same::AsAfter;
    }
    if touched(change.before.as_ref(), &patch) == touched(Some(current), &patch) {
        return Same::AsBefore;
    }
    Same::Neither
}

/// The part of an object that a patch touches.
fn touched(object: Option<&Value>, patch: &Value) -> Value {
    match (object, patch) {
        (Some(object), Value::Object(fields)) => {
            let part = |(key, field): (&String, &Value)| (key.clone(), touched(object.get(key), field));
            Value::Object(fields.iter().map(part).collect())
        }
        (None, Value::Object(fields)) => {
            Value::Object(fields.iter().map(|(key, field)| (key.clone(), touched(None, field))).collect())
        }
        (object, _) => object.cloned().unwrap_or(Value::Null),
    }
}

/// Everything of `wanted` stands in `current`.
fn contains(current: &Value, wanted: &Value) -> bool {
    match (current, wanted) {
        (Value::Object(current), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| current.get(key).is_some_and(|c| contains(c, value)))
        }
        _ => current == wanted,
    }
}

fn version_of(object: &Value) -> Option<String> {
    text(object, "/metadata/resourceVersion").map(str::to_owned)
}
