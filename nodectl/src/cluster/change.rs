//! One write to the cluster: what, to which object, why, and what it looked like before.

use serde::Serialize;
use serde_json::{Map, Value};

use super::object::{ObjectRef, is_going};

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It does not exist yet.
    Create,
    /// It exists and differs.
    Update,
    /// It exists and is to go.
    Delete,
}

/// One write, with its reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// The object.
    pub target: ObjectRef,
    /// What is done to it.
    pub action: Action,
    /// Why, as a sentence without a full stop.
    pub reason: String,
    /// What has to come true before this and everything after it is done; `None` where nothing is waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// The object as it was read.
    #[serde(skip)]
    pub before: Option<Value>,
    /// The object as it will be.
    #[serde(skip)]
    pub after: Option<Value>,
}

/// One field that a change touches.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FieldChange {
    /// Where, with dots between keys.
    pub field: String,
    /// What stands there now; `null` where nothing does.
    pub before: Value,
    /// What will stand there; `null` where nothing will.
    pub after: Value,
}

impl Change {
    /// Creates an object.
    pub fn create(target: ObjectRef, after: Value, reason: impl Into<String>) -> Change {
        let reason = reason.into();
        Change { target, action: Action::Create, reason, waits_for: None, before: None, after: Some(after) }
    }

    /// Changes an object; `None` where it is as it should be already.
    pub fn update(target: ObjectRef, before: &Value, after: Value, reason: impl Into<String>) -> Option<Change> {
        (*before != after).then(|| Change {
            target,
            action: Action::Update,
            reason: reason.into(),
            waits_for: None,
            before: Some(before.clone()),
            after: Some(after),
        })
    }

    /// Deletes an object; `None` where it is on its way already (a Namespace takes a while).
    pub fn delete(target: ObjectRef, before: &Value, reason: impl Into<String>) -> Option<Change> {
        (!is_going(before)).then(|| Change {
            target,
            action: Action::Delete,
            reason: reason.into(),
            waits_for: None,
            before: Some(before.clone()),
            after: None,
        })
    }

    /// The same change, to be held back until something has come true.
    pub fn waiting_for(mut self, what: Option<&str>) -> Change {
        self.waits_for = what.map(str::to_owned);
        self
    }

    /// The merge patch (RFC 7386) that makes `after` of `before`.
    pub fn patch(&self) -> Value {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => merge_patch(before, after).unwrap_or_else(|| Value::Object(Map::new())),
            _ => Value::Object(Map::new()),
        }
    }

    /// The fields that it touches: every one for an object that comes, none for one that goes.
    pub fn fields(&self) -> Vec<FieldChange> {
        self.after.as_ref().map(|after| field_changes(self.before.as_ref(), after)).unwrap_or_default()
    }
}

/// The fields in which an object differs from what it was, without what only names it.
pub fn field_changes(before: Option<&Value>, after: &Value) -> Vec<FieldChange> {
    let mut fields = Vec::new();
    let nothing = Value::Object(Map::new());
    differences("", before.unwrap_or(&nothing), after, &mut fields);
    fields.retain(|f| !matches!(f.field.as_str(), "apiVersion" | "kind" | "metadata.name" | "metadata.namespace"));
    fields
}

/// The merge patch between two objects, `None` where they are equal.
pub fn merge_patch(before: &Value, after: &Value) -> Option<Value> {
    if before == after {
        return None;
    }
    let (Some(old), Some(new)) = (before.as_object(), after.as_object()) else {
        return Some(after.clone());
    };
    let gone = old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed = new.iter().filter_map(|(key, value)| {
        let patch = match old.get(key) {
            Some(previous) => merge_patch(previous, value)?,
            None => value.clone(),
        };
        Some((key.clone(), patch))
    });
    Some(Value::Object(gone.chain(changed).collect()))
}

/// Lists the fields in which two values differ.
fn differences(at: &str, before: &Value, after: &Value, found: &mut Vec<FieldChange>) {
    if before == after {
        return;
    }
    let nothing = Map::new();
    let (old, new) = match (before, after) {
        (Value::Object(old), Value::Object(new)) => (old, new),
        (Value::Null, Value::Object(new)) if !new.is_empty() => (&nothing, new),
        (Value::Object(old), Value::Null) if !old.is_empty() => (old, &nothing),
        _ => {
            found.push(FieldChange { field: at.to_owned(), before: before.clone(), after: after.clone() });
            return;
        }
    };
    let added = new.keys().filter(|key| !old.contains_key(*key));
    for key in old.keys().chain(added) {
        let field = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
        let value = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or(Value::Null);
        differences(&field, &value(old), &value(new), found);
    }
}
