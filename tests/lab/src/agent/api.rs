//! The Kubernetes API as the stand-ins use it: paths and JSON, and a status code in every error.

use std::fmt;

use serde_json::Value;

/// A refused or failed request. Code 0 means that no answer came at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status, or 0 when the server could not be reached.
    pub code: u16,
    /// What was asked and what was answered.
    pub message: String,
}

impl ApiError {
    /// True for "no such object".
    pub fn not_found(&self) -> bool {
        self.code == 404
    }

    /// True for a lost race: the object exists already, or its resourceVersion has moved on.
    pub fn conflict(&self) -> bool {
        self.code == 409
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

/// The answer to a request.
pub type Answer<T> = Result<T, ApiError>;

/// What the stand-ins ask of an API server. Paths begin with `/api` or `/apis`.
pub trait Api: Send + Sync {
    /// Reads one object.
    fn get(&self, path: &str) -> Answer<Value>;
    /// Reads a collection, selectors included in the path; answers its items.
    fn list(&self, path: &str) -> Answer<Vec<Value>>;
    /// Creates an object in a collection (or a subresource, such as a token).
    fn create(&self, path: &str, object: &Value) -> Answer<Value>;
    /// Replaces an object; with metadata.resourceVersion it is a compare-and-swap.
    fn replace(&self, path: &str, object: &Value) -> Answer<Value>;
    /// Applies a strategic merge patch.
    fn patch(&self, path: &str, patch: &Value) -> Answer<Value>;
    /// Deletes an object.
    fn delete(&self, path: &str) -> Answer<()>;

    /// Reads one object, or None if there is none.
    fn find(&self, path: &str) -> Answer<Option<Value>> {
        match self.get(path) {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The text at a JSON pointer, or "".
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// An annotation of an object, if it is there.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get("annotations")?.get(key)?.as_str()
}

/// The object's name.
pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}
