//! JSON patch, RFC 6902, including `test`.

use serde_json::Value;

use crate::apiserver::error::{ApiError, ApiResult};
use crate::apiserver::value::{items, text};

/// Runs the operations of `patch` on a copy of `old`. Whatever cannot be done is 422, as measured.
pub fn run(old: &Value, patch: &Value) -> ApiResult<Value> {
    if !patch.is_array() {
        return Err(ApiError::bad_request("a JSON patch is a list of operations"));
    }
    let mut object = old.clone();
    for operation in items(patch) {
        step(&mut object, operation).ok_or_else(failed)?;
    }
    Ok(object)
}

fn failed() -> ApiError {
    ApiError::new(422, "Invalid", "the server rejected our request due to an error in our request")
}

fn step(object: &mut Value, operation: &Value) -> Option<()> {
    let path = operation["path"].as_str()?;
    match text(&operation["op"]) {
        "test" => (object.pointer(path)? == operation.get("value")?).then_some(()),
        "add" => add(object, path, operation.get("value")?.clone()),
        "replace" => {
            *object.pointer_mut(path)? = operation.get("value")?.clone();
            Some(())
        }
        "remove" => take(object, path).map(drop),
        "move" => {
            let value = take(object, operation["from"].as_str()?)?;
            add(object, path, value)
        }
        "copy" => {
            let value = object.pointer(operation["from"].as_str()?)?.clone();
            add(object, path, value)
        }
        _ => None,
    }
}

fn split(path: &str) -> Option<(&str, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(object: &mut Value, path: &str, value: Value) -> Option<()> {
    let (parent, last) = split(path)?;
    match object.pointer_mut(parent)? {
        Value::Object(map) => {
            map.insert(last, value);
        }
        Value::Array(list) if last == "-" => list.push(value),
        Value::Array(list) => {
            let at: usize = last.parse().ok().filter(|at| *at <= list.len())?;
            list.insert(at, value);
        }
        _ => return None,
    }
    Some(())
}

fn take(object: &mut Value, path: &str) -> Option<Value> {
    let (parent, last) = split(path)?;
    match object.pointer_mut(parent)? {
        Value::Object(map) => map.shift_remove(&last),
        Value::Array(list) => {
            let at: usize = last.parse().ok().filter(|at| *at < list.len())?;
            Some(list.remove(at))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_failing_test_operation_changes_nothing_and_is_422() {
        let old = json!({"metadata": {"labels": {"a/b": "1"}}});
        let good = json!([{"op": "test", "path": "/metadata/labels/a~1b", "value": "1"},
            {"op": "replace", "path": "/metadata/labels/a~1b", "value": "2"}]);
        assert_eq!(run(&old, &good).unwrap()["metadata"]["labels"]["a/b"], "2");
        let bad = json!([{"op": "test", "path": "/metadata/labels/a~1b", "value": "9"}]);
        assert_eq!(run(&old, &bad).unwrap_err().code, 422);
    }
}
