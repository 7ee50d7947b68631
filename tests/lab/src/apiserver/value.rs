//! Small helpers for JSON objects, names and times.

use std::io::Read;

use jiff::Timestamp;
use serde_json::Value;

/// Now, as Kubernetes writes times.
pub fn now() -> String {
    time_text(unix_now())
}

/// Seconds since 1970.
pub fn unix_now() -> i64 {
    Timestamp::now().as_second()
}

/// A time as Kubernetes writes it.
pub fn time_text(seconds: i64) -> String {
    let time = Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Milliseconds since 1970 of a time as Kubernetes writes it.
pub fn parse_time(value: &Value) -> Option<i64> {
    value.as_str()?.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
}

/// A string field, or "".
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The items of an array, or none.
pub fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Whether a field is missing or null.
pub fn unset(value: &Value) -> bool {
    value.is_null()
}

/// Sets a field that is not there yet.
pub fn default_to(object: &mut Value, field: &str, value: Value) {
    if object[field].is_null() {
        object[field] = value;
    }
}

/// Removes a field of an object, if it is there.
pub fn remove(object: &mut Value, field: &str) -> Option<Value> {
    object.as_object_mut()?.shift_remove(field)
}

/// Copies a field from one object to another, its absence too.
pub fn keep(from: &Value, to: &mut Value, field: &str) {
    match from.get(field) {
        Some(value) => to[field] = value.clone(),
        None => {
            remove(to, field);
        }
    }
}

/// The condition of a type in `status.conditions`.
pub fn condition<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    items(&object["status"]["conditions"]).find(|condition| condition["type"] == name)
}

/// Whether a condition of that type is True.
pub fn is_true(object: &Value, name: &str) -> bool {
    condition(object, name).is_some_and(|condition| condition["status"] == "True")
}

/// The controlling owner.
pub fn controller_of(object: &Value) -> Option<&Value> {
    items(&object["metadata"]["ownerReferences"]).find(|owner| owner["controller"] == true)
}

/// A random uid.
pub fn new_uid() -> String {
    let hex: String = random_bytes::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

/// Five characters, as generateName appends them.
pub fn name_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let bytes = random_bytes::<5>();
    bytes.iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    if read.is_err() {
        let clock = Timestamp::now().as_nanosecond().to_le_bytes();
        bytes.iter_mut().zip(clock).for_each(|(byte, tick)| *byte = tick);
    }
    bytes
}
