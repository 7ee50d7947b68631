//! CNI results in the version that was asked for.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// One address as a result has it: versions before 1.0.0 want to know the family.
fn ip(version: &str, address: Ipv4Addr) -> Value {
    let mut ip = json!({"address": format!("{address}/32")});
    if version.starts_with("0.") {
        ip["version"] = json!("4");
    }
    ip
}

/// The result of the IPAM plugin.
pub fn ipam(version: &str, address: Ipv4Addr) -> Value {
    if version == "0.1.0" || version == "0.2.0" {
        return json!({"cniVersion": version, "ip4": {"ip": format!("{address}/32")}, "dns": {}});
    }
    json!({"cniVersion": version, "ips": [ip(version, address)], "dns": {}})
}

/// The result of the main plugin: both ends of the veth, the address without a gateway.
pub fn main(version: &str, address: Ipv4Addr, host: &str, container: (&str, &str), netns: &str) -> Value {
    if version == "0.1.0" || version == "0.2.0" {
        return ipam(version, address);
    }
    let (name, mac) = container;
    json!({
        "cniVersion": version,
        "interfaces": [{"name": host}, {"name": name, "mac": mac, "sandbox": netns}],
        "ips": [ip(version, address)],
        "dns": {},
    })
}

/// The addresses in an IPAM plugin's result, in either form.
pub fn addresses(result: &Value) -> Vec<Ipv4Addr> {
    let old = result["ip4"]["ip"].as_str().into_iter();
    let new =
        result["ips"].as_array().map(Vec::as_slice).unwrap_or_default().iter().filter_map(|ip| ip["address"].as_str());
    old.chain(new).filter_map(|text| text.split('/').next()?.parse().ok()).collect()
}
