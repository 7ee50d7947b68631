//! CNI versions, and results converted between them (containernetworking/cni, pkg/types/040 and 100).

use crate::error::{self, Error};
use serde_json::{Map, Value};

/// The versions that the shim speaks; may only grow.
pub const SUPPORTED: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Whether the shim speaks this version (exact text, as libcni compares).
pub fn is_supported(version: &str) -> bool {
    SUPPORTED.contains(&version)
}

/// The parts of a version, for comparing.
pub fn parse(version: &str) -> Option<[u32; 3]> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    let parsed = [parts.next()??, parts.next().unwrap_or(Some(0))?, parts.next().unwrap_or(Some(0))?];
    parts.next().is_none().then_some(parsed)
}

/// Whether `version` is at least `floor`.
pub fn at_least(version: &str, floor: &str) -> bool {
    parse(version) >= parse(floor)
}

/// A result in another version. Fields that neither version speaks of are kept.
pub fn result(result: Value, version: &str) -> Result<Value, Error> {
    let fix = "install the plugin again, in a version that answers as the CNI specification has it";
    let unusable = |why: String| {
        let details = format!("{why}. To fix it: {fix}");
        Error::new(error::DECODE, "a plugin's result cannot be converted", details)
    };
    let Value::Object(mut converted) = result else { return Err(unusable("it is not an object".to_owned())) };
    let from = converted.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
    if !is_supported(from) || !is_supported(version) {
        return Err(unusable(format!("from version \"{from}\" to \"{version}\"; known are {}", SUPPORTED.join(", "))));
    }
    let newer = (at_least(from, "1.0.0"), at_least(version, "1.0.0"));
    converted.insert("cniVersion".to_owned(), version.into());
    match newer {
        (true, false) => to_040(&mut converted).map_err(unusable)?,
        (false, true) => to_100(&mut converted),
        _ => {}
    }
    Ok(Value::Object(converted))
}

fn to_040(result: &mut Map<String, Value>) -> Result<(), String> {
    for ip in items(result, "ips") {
        let address = ip.get("address").and_then(Value::as_str).unwrap_or_default();
        let ip_only = address.split('/').next().unwrap_or_default();
        let family = match ip_only.parse::<std::net::IpAddr>() {
            Ok(parsed) if parsed.is_ipv4() => "4",
            Ok(_) => "6",
            Err(cause) => return Err(format!("the address \"{address}\": {cause}")),
        };
        // Where 0.4.0 has it: first.
        let rest = std::mem::take(ip);
        ip.insert("version".to_owned(), family.into());
        ip.extend(rest.into_iter().filter(|(key, _)| key != "version"));
    }
    for interface in items(result, "interfaces") {
        interface.retain(|key, _| !matches!(key.as_str(), "mtu" | "socketPath" | "pciID"));
    }
    result.entry("dns").or_insert_with(|| Value::Object(Map::new()));
    Ok(())
}

fn to_100(result: &mut Map<String, Value>) {
    items(result, "ips").for_each(|ip| drop(ip.shift_remove("version")));
    if result.get("dns").and_then(Value::as_object).is_some_and(Map::is_empty) {
        result.shift_remove("dns");
    }
}

fn items<'a>(result: &'a mut Map<String, Value>, key: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let list = result.get_mut(key).and_then(Value::as_array_mut);
    list.map(|list| list.iter_mut()).unwrap_or_default().filter_map(Value::as_object_mut)
}
