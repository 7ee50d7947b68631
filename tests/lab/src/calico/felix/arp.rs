//! `table arp calico-arp` (from 3.32): a pod's interface never gets an ARP reply that claims the pod's own address.

use std::fmt::Write;

use anyhow::Result;

use crate::command;

use super::desired::Desired;

/// Writes the table anew if it differs.
pub fn apply(wanted: &Desired) -> Result<()> {
    let mut rules = String::new();
    for endpoint in &wanted.endpoints {
        for address in endpoint.addresses.iter().filter(|address| address.is_ipv4()) {
            let _ = writeln!(
                rules,
                "\t\toifname \"{}\" arp operation reply arp saddr ip {address} drop",
                endpoint.interface
            );
        }
    }
    let table = format!(
        "table arp calico-arp {{\n\tchain output {{\n\t\ttype filter hook output priority filter; policy accept;\n{rules}\t}}\n}}\n"
    );
    let current = command::run(&["nft", "list", "table", "arp", "calico-arp"]).unwrap_or_default();
    let interfaces = |text: &str| -> Vec<String> {
        let drops = text.lines().filter(|line| line.contains("oifname"));
        drops
            .map(|line| {
                line.split_whitespace()
                    .filter(|word| word.starts_with('"') || word.contains('.'))
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect()
    };
    if !current.is_empty() && interfaces(&current) == interfaces(&table) {
        return Ok(());
    }
    // Added first, so that the deletion finds it; all in one transaction.
    let script = format!("add table arp calico-arp\ndelete table arp calico-arp\n{table}");
    command::run_with_input(&["nft", "-f", "-"], &script).map(|_| ())
}
