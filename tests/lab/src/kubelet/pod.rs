//! Reading pods.

use serde_json::Value;

/// A text at a JSON pointer, empty when there is none.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A number at a JSON pointer.
pub fn number(value: &Value, pointer: &str, default: i64) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or(default)
}

/// A list at a JSON pointer.
pub fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// The texts of an object at a JSON pointer.
pub fn texts(value: &Value, pointer: &str) -> std::collections::HashMap<String, String> {
    let pairs = value.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
    pairs.filter_map(|(name, text)| Some((name.clone(), text.as_str()?.to_owned()))).collect()
}

/// Namespace of a pod.
pub fn namespace(pod: &Value) -> &str {
    text(pod, "/metadata/namespace")
}

/// Name of a pod.
pub fn name(pod: &Value) -> &str {
    text(pod, "/metadata/name")
}

/// The uid that the runtime's labels carry: a mirror pod's own is another.
pub fn uid(pod: &Value) -> &str {
    text(pod, "/metadata/uid")
}

/// True for a pod on the node's own network.
pub fn is_host_network(pod: &Value) -> bool {
    pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true))
}

/// True for a pod of a file.
pub fn is_static(pod: &Value) -> bool {
    pod.pointer("/metadata/annotations/kubernetes.io~1config.source").and_then(Value::as_str) == Some("file")
}

/// True for the API server's image of a pod of a file.
pub fn is_mirror(pod: &Value) -> bool {
    pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some()
}

/// True once it is being deleted.
pub fn is_deleted(pod: &Value) -> bool {
    pod.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null())
}

/// The seconds that its containers get to end.
pub fn grace(pod: &Value) -> i64 {
    number(pod, "/metadata/deletionGracePeriodSeconds", number(pod, "/spec/terminationGracePeriodSeconds", 30))
}

/// True when it has ended for good.
pub fn is_terminal(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// Path of the pod in the API.
pub fn path(pod: &Value) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", namespace(pod), name(pod))
}

/// "namespace/name", for messages.
pub fn show(pod: &Value) -> String {
    format!("{}/{}", namespace(pod), name(pod))
}
