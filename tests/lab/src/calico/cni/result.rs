//! CNI results in the version that was asked for.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::agent::family::Family;

/// One address as a result has it: versions before 1.0.0 want to know the family.
fn ip(version: &str, address: IpAddr) -> Value {
    let mut ip = json!({"address": IpNet::from(address).to_string()});
    if version.starts_with("0.") {
        ip["version"] = json!(Family::of(address).digit());
    }
    ip
}

fn ips(version: &str, addresses: &[IpAddr]) -> Vec<Value> {
    addresses.iter().map(|address| ip(version, *address)).collect()
}

/// The result of the IPAM plugin.
pub fn ipam(version: &str, addresses: &[IpAddr]) -> Value {
    if version == "0.1.0" || version == "0.2.0" {
        let mut answer = json!({"cniVersion": version, "dns": {}});
        for address in addresses {
            let key = format!("ip{}", Family::of(*address).digit());
            answer[key] = json!({"ip": IpNet::from(*address).to_string()});
        }
        return answer;
    }
    json!({"cniVersion": version, "ips": ips(version, addresses), "dns": {}})
}

/// The result of the main plugin: both ends of the veth, the addresses without a gateway.
pub fn main(version: &str, addresses: &[IpAddr], host: &str, container: (&str, &str), netns: &str) -> Value {
    if version == "0.1.0" || version == "0.2.0" {
        return ipam(version, addresses);
    }
    let (name, mac) = container;
    json!({
        "cniVersion": version,
        "interfaces": [{"name": host}, {"name": name, "mac": mac, "sandbox": netns}],
        "ips": ips(version, addresses),
        "dns": {},
    })
}

/// The addresses in an IPAM plugin's result, in either form.
pub fn addresses(result: &Value) -> Vec<IpAddr> {
    let old = ["ip4", "ip6"].into_iter().filter_map(|family| result[family]["ip"].as_str());
    let new =
        result["ips"].as_array().map(Vec::as_slice).unwrap_or_default().iter().filter_map(|ip| ip["address"].as_str());
    old.chain(new).filter_map(|text| text.split('/').next()?.parse().ok()).collect()
}
