//! What the runtime tells the network about a sandbox.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::records::Sandbox;
use crate::cri::{PodSandboxConfig, Protocol};
use crate::libcni::Attachment;

/// A sandbox as the plugins see it, made anew from its stored configuration for ADD and for DEL.
pub fn attachment(sandbox: &Sandbox, netns: &str) -> Attachment {
    let config = sandbox.config();
    let metadata = config.metadata.clone().unwrap_or_default();
    // containerd ranges over a Go map: the order is random, and nobody may rely on it.
    let arguments: HashMap<&str, String> = HashMap::from([
        ("K8S_POD_NAMESPACE", metadata.namespace),
        ("K8S_POD_NAME", metadata.name),
        ("K8S_POD_INFRA_CONTAINER_ID", sandbox.id.clone()),
        ("K8S_POD_UID", metadata.uid),
        ("IgnoreUnknown", "1".to_owned()),
    ]);
    Attachment {
        container: sandbox.id.clone(),
        netns: netns.to_owned(),
        interface: String::new(),
        arguments: arguments.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        capabilities: capabilities(&config),
    }
}

/// What may become runtimeConfig. The keys of go-cni's structs carry no JSON tags, so they arrive as Go writes them.
fn capabilities(config: &PodSandboxConfig) -> Map<String, Value> {
    let mut all = Map::new();
    all.insert("io.kubernetes.cri.pod-annotations".to_owned(), json!(config.annotations));
    let ports: Vec<Value> = config
        .port_mappings
        .iter()
        .filter(|mapping| mapping.host_port > 0)
        .map(|mapping| {
            let protocol = match mapping.protocol() {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Sctp => "sctp",
            };
            json!({"HostPort": mapping.host_port, "ContainerPort": mapping.container_port, "Protocol": protocol, "HostIP": mapping.host_ip})
        })
        .collect();
    if !ports.is_empty() {
        all.insert("portMappings".to_owned(), Value::Array(ports));
    }
    if let Some(dns) = &config.dns_config {
        all.insert("dns".to_owned(), json!({"Servers": dns.servers, "Searches": dns.searches, "Options": dns.options}));
    }
    let cgroup = config.linux.as_ref().map(|linux| linux.cgroup_parent.as_str()).unwrap_or_default();
    if !cgroup.is_empty() {
        all.insert("cgroupPath".to_owned(), Value::from(cgroup));
    }
    if let Some(bandwidth) = bandwidth(config) {
        all.insert("bandwidth".to_owned(), bandwidth);
    }
    all
}

/// The shaping that a pod's annotations ask for.
fn bandwidth(config: &PodSandboxConfig) -> Option<Value> {
    let rate = |name: &str| config.annotations.get(name).and_then(|text| quantity(text));
    let (ingress, egress) = (rate("kubernetes.io/ingress-bandwidth"), rate("kubernetes.io/egress-bandwidth"));
    if ingress.is_none() && egress.is_none() {
        return None;
    }
    let mut shaping = Map::new();
    for (name, value) in [("Ingress", ingress), ("Egress", egress)] {
        // go-cni's burst is the largest 32-bit number.
        shaping.insert(format!("{name}Rate"), json!(value.unwrap_or_default()));
        shaping.insert(format!("{name}Burst"), json!(value.map_or(0, |_| i32::MAX)));
    }
    Some(Value::Object(shaping))
}

/// A Kubernetes quantity with the suffixes that rates are given in.
fn quantity(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let factor = match text.get(digits.len()..)? {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// The addresses of eth0 in a result of any version.
pub fn addresses(result: &Value) -> Vec<String> {
    let interfaces = result.get("interfaces").and_then(Value::as_array);
    let is_eth0 = |place: Option<u64>| match (place.and_then(|place| usize::try_from(place).ok()), interfaces) {
        (Some(place), Some(interfaces)) => {
            interfaces.get(place).and_then(|interface| interface.get("name")).is_some_and(|name| name == "eth0")
        }
        // Without an index the address is taken for eth0's.
        _ => true,
    };
    let new = result.get("ips").and_then(Value::as_array).into_iter().flatten();
    let listed =
        new.filter(|ip| is_eth0(ip.get("interface").and_then(Value::as_u64))).filter_map(|ip| ip.get("address"));
    let old = ["ip4", "ip6"].into_iter().filter_map(|family| result.get(family)?.get("ip"));
    listed
        .chain(old)
        .filter_map(Value::as_str)
        .map(|address| address.split('/').next().unwrap_or_default().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_eth0s_addresses_count() {
        let result = json!({"interfaces":[{"name":"cni0"},{"name":"eth0"}],"ips":[{"address":"10.0.0.1/24","interface":0},{"address":"10.0.0.2/24","interface":1}]});
        assert_eq!(addresses(&result), ["10.0.0.2"]);
        assert_eq!(addresses(&json!({"ip4":{"ip":"10.0.0.3/24"}})), ["10.0.0.3"]);
    }

    #[test]
    fn host_ports_are_sent_as_go_writes_them() {
        let mut config = PodSandboxConfig::default();
        config.port_mappings.push(crate::cri::PortMapping {
            protocol: 1,
            container_port: 53,
            host_port: 5353,
            host_ip: String::new(),
        });
        config.port_mappings.push(crate::cri::PortMapping {
            protocol: 0,
            container_port: 80,
            host_port: 0,
            host_ip: String::new(),
        });
        let all = capabilities(&config);
        assert_eq!(all["portMappings"], json!([{"HostPort":5353,"ContainerPort":53,"Protocol":"udp","HostIP":""}]));
    }
}
