//! What chained plugins keep per network and container: hostPort and masquerade rules, bandwidth's devices. Their chains and
//! devices are named after a hash of both, and their comments name both in the clear.

use sha2::{Digest, Sha512};

use super::known::Known;
use super::{Group, Inventory};
use crate::facts::{Facts, NftRule};

/// Chains that portmap and bridge make per container; their shared ones (`CNI-HOSTPORT-...`) stay for the next CNI.
const PREFIXES: [&str; 3] = ["CNI-DN-", "CNI-SN-", "CNI-"];

/// A shared table of portmap's nftables variant, whose rules bear the container's id as their comment.
const HOSTPORT: &str = "cni_hostport";
/// The shared table of the bridge plugin's masquerading in nftables.
const MASQUERADE: &str = "inet cni_plugins_masquerade";

/// Whether a chain's name is one that a plugin makes for one container.
pub fn is_container_chain(name: &str) -> bool {
    !name.starts_with("CNI-HOSTPORT")
        && name.len() == 28
        && PREFIXES.iter().any(|p| name.strip_prefix(p).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit())))
}

/// The network and the container that a rule's comment names: `dnat name: "cbr0" id: "..."`, as iptables-save escapes it.
pub fn named(spec: &str) -> Option<(String, String)> {
    // A node has tens of thousands of rules, and hardly one names a network.
    if !spec.contains("name: ") {
        return None;
    }
    let plain = spec.replace("\\\"", "\"");
    let (_, rest) = plain.split_once("name: \"")?;
    let (network, rest) = rest.split_once('"')?;
    let (_, rest) = rest.split_once("id: \"")?;
    let (container, _) = rest.split_once('"')?;
    Some((network.to_owned(), container.to_owned()))
}

/// Whether what is of this network and container goes.
pub fn is_owned(known: &Known, network: &str, container: &str) -> bool {
    known.is_named(network) && !known.others.contains(container)
}

/// Name of the device that the bandwidth plugin makes for a container.
pub fn ifb_name(network: &str, container: &str) -> String {
    format!("bwp{}", &hash(network, container)[..12])
}

/// Names of the chains that portmap and bridge make for a container.
pub fn chain_names(network: &str, container: &str) -> [String; 3] {
    let hash = hash(network, container);
    [format!("CNI-DN-{}", &hash[..21]), format!("CNI-SN-{}", &hash[..21]), format!("CNI-{}", &hash[..24])]
}

fn hash(network: &str, container: &str) -> String {
    let digest = Sha512::digest(format!("{network}{container}"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Rules of the plugins' nftables variants.
pub fn claim(facts: &Facts, known: &Known, inventory: &mut Inventory) {
    let Some(traces) = &facts.traces else { return };
    let containers: Vec<&str> = traces
        .notes
        .iter()
        .filter(|n| is_owned(known, &n.network, &n.container))
        .map(|n| n.container.as_str())
        .collect();
    for rule in traces.nft_tables.iter().flat_map(|t| &t.rules) {
        let ours = match rule.table.as_str() {
            MASQUERADE => rule.comments.iter().any(|c| masquerade_network(c).is_some_and(|net| known.is_named(net))),
            table if table.ends_with(&format!(" {HOSTPORT}")) => {
                rule.comments.iter().any(|c| containers.contains(&c.as_str()))
            }
            _ => false,
        };
        if ours {
            inventory.claim(
                Group::NftRules,
                rule_text(rule),
                "made by a plugin for a pod of this network: its comment",
            );
            inventory.image.nft_rules.push(rule.clone());
        }
    }
}

/// The network of `<hash>-<hash>, net: cbr0, if: eth0, id: ...`.
fn masquerade_network(comment: &str) -> Option<&str> {
    comment.split(", ").find_map(|part| part.strip_prefix("net: "))
}

/// A rule of nftables in a line.
pub fn rule_text(rule: &NftRule) -> String {
    let what = match (&rule.jump, rule.comments.first()) {
        (_, Some(comment)) => format!("\"{comment}\""),
        (Some(jump), None) => format!("jump {jump}"),
        (None, None) => String::new(),
    };
    format!("{} {} handle {} {what}", rule.table, rule.chain, rule.handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_the_plugins_make_them() {
        let id = "e05c0b7dc624c20da56c8db60492744381eb27b7449e28e87f8efa6da8210a9e";
        assert_eq!(chain_names("cni0", id)[0], "CNI-DN-bcfdb00a9541b4df781a0");
        assert_eq!(chain_names("cbr0", id)[2], "CNI-c246fff8e67304d92b645a19");
        assert_eq!(ifb_name("cbr0", id), "bwpc246fff8e673");
        assert!(chain_names("cbr0", id).iter().all(|name| is_container_chain(name)));
        assert!(!is_container_chain("CNI-HOSTPORT-DNAT") && !is_container_chain("CNI-FORWARD"));
    }

    #[test]
    fn comments_name_network_and_container() {
        let spec =
            r#"-s 10.244.1.2/32 -m comment --comment "name: \"cbr0\" id: \"abc\"" -j CNI-c246fff8e67304d92b645a19"#;
        assert_eq!(named(spec), Some(("cbr0".into(), "abc".into())));
        assert_eq!(named("-m comment --comment \"name: us\" -j RETURN"), None);
        assert_eq!(masquerade_network("ab-cd, net: cbr0, if: eth0, id: x"), Some("cbr0"));
    }
}
