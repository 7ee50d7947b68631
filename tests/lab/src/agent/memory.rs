//! An API server in memory, for tests of what is built on [`Api`]: objects by path, resourceVersion checked on replace.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::{Value, json};

use super::api::{Answer, Api, ApiError};

/// Objects by path, and the counter behind resourceVersion.
#[derive(Default)]
pub struct Memory {
    state: Mutex<(BTreeMap<String, Value>, u64)>,
}

fn refuse(code: u16, path: &str, why: &str) -> ApiError {
    ApiError { code, message: format!("{path}: {why}") }
}

/// Merges as a JSON merge patch does; the tests patch no lists.
fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    target.remove(key);
                } else {
                    merge(target.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}

impl Memory {
    fn store(state: &mut (BTreeMap<String, Value>, u64), path: String, mut object: Value) -> Value {
        state.1 += 1;
        object["metadata"]["resourceVersion"] = json!(state.1.to_string());
        state.0.insert(path, object.clone());
        object
    }
}

impl Api for Memory {
    fn get(&self, path: &str) -> Answer<Value> {
        let state = self.state.lock().unwrap();
        state.0.get(path).cloned().ok_or_else(|| refuse(404, path, "not found"))
    }

    fn list(&self, path: &str) -> Answer<Vec<Value>> {
        let folder = format!("{}/", path.split('?').next().unwrap_or_default());
        let state = self.state.lock().unwrap();
        let within = |key: &str| key.strip_prefix(&folder).is_some_and(|rest| !rest.contains('/'));
        Ok(state.0.iter().filter(|(key, _)| within(key)).map(|(_, object)| object.clone()).collect())
    }

    fn create(&self, path: &str, object: &Value) -> Answer<Value> {
        let key = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap_or_default());
        let mut state = self.state.lock().unwrap();
        if state.0.contains_key(&key) {
            return Err(refuse(409, &key, "already exists"));
        }
        Ok(Self::store(&mut state, key, object.clone()))
    }

    fn replace(&self, path: &str, object: &Value) -> Answer<Value> {
        let mut state = self.state.lock().unwrap();
        let current = state.0.get(path).ok_or_else(|| refuse(404, path, "not found"))?;
        if current["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
            return Err(refuse(409, path, "the object has been modified"));
        }
        Ok(Self::store(&mut state, path.to_owned(), object.clone()))
    }

    fn patch(&self, path: &str, patch: &Value) -> Answer<Value> {
        let key = path.strip_suffix("/status").unwrap_or(path);
        let mut state = self.state.lock().unwrap();
        let mut object = state.0.get(key).cloned().ok_or_else(|| refuse(404, path, "not found"))?;
        merge(&mut object, patch);
        Ok(Self::store(&mut state, key.to_owned(), object))
    }

    fn delete(&self, path: &str) -> Answer<()> {
        let mut state = self.state.lock().unwrap();
        state.0.remove(path).map(|_| ()).ok_or_else(|| refuse(404, path, "not found"))
    }
}
