//! What stays and names a CNI's device: zones, rules and drop-ins of others. Told, never touched.

use std::collections::BTreeSet;

use super::Inventory;
use super::links::is_pod_name;
use crate::cni::Cni;
use crate::facts::{Facts, Mention};

/// Directories and files of others that may name a CNI's device: firewalls, network managers, saved rules.
pub const PLACES: [&str; 16] = [
    "/etc/firewalld",
    "/etc/ufw",
    "/etc/NetworkManager/conf.d",
    "/etc/NetworkManager/system-connections",
    "/etc/NetworkManager/dispatcher.d",
    "/etc/systemd/network",
    "/etc/netplan",
    "/etc/network/interfaces",
    "/etc/network/interfaces.d",
    "/etc/iptables",
    "/etc/sysconfig",
    "/etc/nftables.conf",
    "/etc/nftables.d",
    "/etc/sysctl.conf",
    "/etc/sysctl.d",
    "/etc/udev/rules.d",
];

/// The CNI whose device, or pattern of devices, a word is.
pub fn device_of(word: &str) -> Option<Cni> {
    let name = word.trim_end_matches(['*', '+']);
    let is_pattern = name.len() < word.len();
    if name == "cni0" || ["flannel.", "flannel-v6.", "flannel-wg"].iter().any(|p| name.starts_with(p)) {
        return Some(Cni::Flannel);
    }
    let calico =
        ["vxlan.calico", "vxlan-v6.calico", "wireguard.cali", "wg-v6.cali", "tunl0", "bpfin.cali", "bpfout.cali"];
    if calico.contains(&name) || is_pod_name(name, "cali") {
        return Some(Cni::Calico);
    }
    match name {
        "flannel" | "cni" if is_pattern => Some(Cni::Flannel),
        "cali" | "tunl" | "bpf" if is_pattern => Some(Cni::Calico),
        _ => None,
    }
}

/// The devices of either CNI that a line of a configuration names, each once.
pub fn devices_in(line: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '*' | '+');
    line.split(|c| !is_part(c)).filter(|word| device_of(word).is_some()).collect()
}

/// Something of others that names a CNI's device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// `file:line`, or the rule.
    pub object: String,
    /// The device, or the pattern.
    pub device: String,
    /// The line of the file; empty for a rule.
    pub text: String,
}

/// Lines of others' files, and of others' rules that stay, that name a device of this CNI.
pub fn named(facts: &Facts, cni: Cni, inventory: &Inventory) -> Vec<Named> {
    let told = |m: &&Mention| device_of(&m.device) == Some(cni) && !inventory.image.files.contains(&m.path);
    let mut all: Vec<Named> = Vec::new();
    for m in facts.traces.iter().flat_map(|t| &t.mentions).filter(told) {
        let object = format!("{}:{}", m.path, m.line);
        all.push(Named { object, device: m.device.clone(), text: m.text.trim().into() });
    }
    for (tool, line) in super::firewall::rules_of_others(facts, inventory) {
        let device = interfaces(line).find(|name| device_of(name) == Some(cni));
        all.extend(device.map(|device| Named {
            object: format!("{tool} {line}"),
            device: device.to_owned(),
            text: String::new(),
        }));
    }
    all
}

/// The same, as remarks.
pub fn tell(facts: &Facts, cni: Cni, inventory: &mut Inventory) {
    for found in named(facts, cni, inventory) {
        let text = if found.text.is_empty() { String::new() } else { format!(": {}", found.text) };
        inventory.stays(&found.object, &format!("names {}{text}", found.device));
    }
}

/// Devices that a rule looks at.
fn interfaces(line: &str) -> impl Iterator<Item = &str> {
    let words: Vec<&str> = line.split(' ').collect();
    let named = words.windows(2).filter(|pair| ["-i", "-o", "--physdev-in", "--physdev-out"].contains(&pair[0]));
    named.map(|pair| pair[1]).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_whole_words() {
        let one = |line: &'static str| devices_in(line).into_iter().collect::<Vec<_>>();
        assert_eq!(one("-A FORWARD -i cni0 -j ACCEPT"), ["cni0"]);
        assert_eq!(one("  <interface name=\"flannel.1\"/><interface name='cni0'/>"), ["cni0", "flannel.1"]);
        assert_eq!(one("unmanaged-devices=interface-name:cali*;interface-name:tunl*"), ["cali*", "tunl*"]);
        for line in
            ["localip", "# the cali office", "california", "a flannel shirt", "tunl01", "dev cni0a", "calico", "*"]
        {
            assert!(devices_in(line).is_empty(), "{line}");
        }
    }
}
