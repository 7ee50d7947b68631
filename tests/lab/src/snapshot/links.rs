//! Links and addresses, out of ip's JSON.

use anyhow::{Context, Result};
use serde_json::Value;

/// What of a link's own data is kept: the rest are timers and defaults of the kernel at hand.
const DATA: [&str; 14] = [
    "id",
    "local",
    "port",
    "learning",
    "ttl",
    "link",
    "stp_state",
    "vlan_filtering",
    "mode",
    "proxy",
    "rsc",
    "gbp",
    "hairpin",
    "isolated",
];

/// One line per link.
pub fn links(text: &str) -> Result<Vec<String>> {
    let mut lines: Vec<String> = parse(text)?.iter().map(link).collect();
    lines.sort();
    Ok(lines)
}

/// One line per address.
pub fn addresses(text: &str) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for link in parse(text)? {
        let name = string(&link, "ifname");
        for address in link["addr_info"].as_array().into_iter().flatten() {
            let mut line = format!(
                "{name} {}/{} scope {}",
                string(address, "local"),
                address["prefixlen"],
                string(address, "scope")
            );
            for flag in ["noprefixroute", "deprecated", "nodad"] {
                if address[flag] == true {
                    line.push_str(&format!(" {flag}"));
                }
            }
            lines.push(line);
        }
    }
    lines.sort();
    Ok(lines)
}

/// A link: name, kind, MTU, MAC, master, whether it is up, and its own data.
fn link(link: &Value) -> String {
    let flags: Vec<&str> = link["flags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let kind = link.pointer("/linkinfo/info_kind").and_then(Value::as_str).unwrap_or_default();
    let mut line = format!("{} {kind} mtu {} mac {}", string(link, "ifname"), link["mtu"], string(link, "address"));
    line.push_str(if flags.contains(&"UP") { " up" } else { " down" });
    if let Some(master) = link["master"].as_str() {
        line.push_str(&format!(" master {master}"));
    }
    for part in ["/linkinfo/info_data", "/linkinfo/info_slave_data"] {
        for name in DATA {
            if let Some(value) = link.pointer(part).and_then(|data| data.get(name)) {
                line.push_str(&format!(" {name} {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
            }
        }
    }
    line
}

/// The list of links.
fn parse(text: &str) -> Result<Vec<Value>> {
    serde_json::from_str(text.trim()).context("ip's answer is not JSON")
}

/// A text of an object.
fn string<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}
