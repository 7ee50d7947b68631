//! Names of enum variants: what stands in files and in JSON is what people read, too.

use serde::Serialize;

/// The name that serde gives a variant without fields; empty for anything else.
pub fn name(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}
