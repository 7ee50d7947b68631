//! Doing the writes. Each is a compare-and-swap against what the decision saw: an object that somebody changed
//! meanwhile is looked at again, and where the very fields differ, everything is decided anew.
//!
//! Writes of which there is one for each node or block are done several at a time, as long as they stand beside each other;
//! the order of everything else is the decision's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};

use anyhow::Result;
use serde_json::{Value, json};

use super::change::{Action, Change};
use super::object::{Kind, ObjectRef, set, text};
use crate::host::kube::{Kube, KubeError, Patch, Write};

/// How often one object is tried again when others write to it at the same time. Something that writes to a Node all the time
/// comes in between more often than not.
const ATTEMPTS: usize = 50;

/// What came of a list of writes.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All were done.
    Done,
    /// One met an object that is not as the decision saw it; those before it were done.
    Stale(String),
}

/// Versions of the objects that were written: an object can be written twice, and the second write builds on the first one's
/// answer.
#[derive(Default)]
struct Versions(Mutex<BTreeMap<ObjectRef, String>>);

impl Versions {
    fn get(&self, target: &ObjectRef) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(target).cloned()
    }

    fn learn(&self, target: &ObjectRef, object: &Value) {
        if let Some(version) = version_of(object) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(target.clone(), version);
        }
    }
}

/// Does the writes in order, at most `parallel` at the same time, and calls `done` after each that changed something.
pub fn execute(kube: &Kube, changes: &[Change], parallel: usize, mut done: impl FnMut(&Change)) -> Result<Outcome> {
    let versions = Versions::default();
    let mut rest = changes;
    while !rest.is_empty() {
        let (batch, after) = rest.split_at(together(rest));
        rest = after;
        match write_batch(kube, batch, parallel, &versions, &mut done)? {
            Outcome::Done => {}
            stale => return Ok(stale),
        }
    }
    Ok(Outcome::Done)
}

/// How many of these changes, from the first one on, may be done at the same time.
fn together(changes: &[Change]) -> usize {
    let Some(first) = changes.first() else { return 0 };
    let mut seen = BTreeSet::new();
    for change in changes {
        let alike = change.target.kind == first.target.kind && change.action == first.action;
        if !alike || !change.target.kind.is_of_a_node() || !seen.insert(&change.target) {
            break;
        }
    }
    seen.len().max(1)
}

/// Does writes that do not depend on each other. After one that failed no other is begun.
fn write_batch(
    kube: &Kube,
    batch: &[Change],
    parallel: usize,
    versions: &Versions,
    done: &mut impl FnMut(&Change),
) -> Result<Outcome> {
    let next = AtomicUsize::new(0);
    let (sender, answers) = mpsc::channel();
    let work = |sender: mpsc::Sender<(usize, Result<Step, KubeError>)>| {
        let take = || {
            let at = next.fetch_add(1, Ordering::Relaxed);
            Some((at, batch.get(at)?))
        };
        while let Some((at, change)) = take() {
            let step = write(kube, change, versions);
            if !matches!(step, Ok(Step::Changed | Step::AlreadySo)) {
                next.store(batch.len(), Ordering::Relaxed);
            }
            // Whoever listens lives as long as this scope.
            let _ = sender.send((at, step));
        }
    };
    let (mut changed, mut failed, mut stale) = (Vec::new(), None, None);
    std::thread::scope(|scope| {
        for _ in 0..parallel.clamp(1, batch.len()) {
            let (sender, work) = (sender.clone(), &work);
            scope.spawn(move || work(sender));
        }
        drop(sender);
        for (at, step) in answers {
            match step {
                Ok(Step::Changed) => changed.push(at),
                Ok(Step::AlreadySo) => {}
                Ok(Step::Stale) => stale = Some(batch[at].target.to_string()),
                Err(error) => failed = Some(error),
            }
        }
    });
    // Told in the decision's order, whichever was quicker.
    changed.sort_unstable();
    changed.into_iter().filter_map(|at| batch.get(at)).for_each(done);
    match (failed, stale) {
        (Some(error), _) => Err(error.into()),
        (None, Some(object)) => Ok(Outcome::Stale(object)),
        (None, None) => Ok(Outcome::Done),
    }
}

fn write(kube: &Kube, change: &Change, versions: &Versions) -> Result<Step, KubeError> {
    tracing::info!(object = %change.target, action = ?change.action, "writing");
    match change.action {
        Action::Create => create(kube, change),
        Action::Update => update(kube, change, versions),
        Action::Delete => delete(kube, change),
    }
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

fn update(kube: &Kube, change: &Change, versions: &Versions) -> Result<Step, KubeError> {
    let target = &change.target;
    let seen = change.before.as_ref().and_then(|b| text(b, "/metadata/resourceVersion"));
    let mut version = versions.get(target).or_else(|| seen.map(str::to_owned));
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let mut patch = change.patch();
        if let Some(version) = &version {
            set(&mut patch, &["metadata", "resourceVersion"], json!(version));
        }
        let error = match kube.patch(&target.path(), Patch::Merge, &patch, Write::REAL) {
            Ok(stored) => {
                versions.learn(target, &stored);
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
                versions.learn(target, &current);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_go_together_that_are_of_the_nodes_and_touch_nothing_twice() {
        let change = |kind: Kind, name: &str| Change::create(ObjectRef::cluster(kind, name), json!({}), "");
        let lengths = |changes: &[Change]| {
            let (mut rest, mut lengths) = (changes, Vec::new());
            while !rest.is_empty() {
                lengths.push(together(rest));
                rest = &rest[together(rest)..];
            }
            lengths
        };
        let roles = [change(Kind::ClusterRole, "a"), change(Kind::ClusterRole, "b")];
        assert_eq!(lengths(&roles), [1, 1]);
        let (label, note) = (change(Kind::Node, "a"), change(Kind::Node, "b"));
        let twice = [label.clone(), note.clone(), label.clone(), note, change(Kind::IPAMBlock, "a"), label];
        assert_eq!(lengths(&twice), [2, 2, 1, 1]);
    }
}
