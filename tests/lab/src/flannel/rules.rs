//! FLANNEL-POSTRTG and FLANNEL-FWD in the layout of v0.21.4 and later, looked at again and again.

use std::fmt::Write;

use anyhow::Result;
use ipnet::IpNet;

use crate::agent;
use crate::agent::family::Family;
use crate::command;

use super::options::{NetConf, Options};
use super::{log, subnet};

/// One table's chain with the jump to it.
#[derive(Debug, Clone)]
struct Set {
    family: Family,
    table: &'static str,
    chain: &'static str,
    /// (chain, arguments), in the order that is needed.
    rules: Vec<(&'static str, String)>,
}

/// The rules that flanneld keeps.
#[derive(Debug)]
pub struct Rules {
    sets: Vec<Set>,
}

/// The iptables backend in use, in a family's own command.
#[derive(Debug, Clone)]
struct Tools {
    iptables: String,
}

impl Tools {
    fn find(family: Family) -> Tools {
        let iptables = agent::env("LAB_IPTABLES").unwrap_or_else(|| "iptables-nft".to_owned());
        Tools { iptables: family.iptables(&iptables) }
    }

    fn holds(&self, table: &str, chain: &str, rule: &str) -> bool {
        let line = format!("{} -w 5 -t {table} -C {chain} {rule}", self.iptables);
        // The rule holds a quoted comment: the shell takes it apart as iptables-save's readers do.
        command::run(&["sh", "-c", &line]).is_ok()
    }

    fn chain_exists(&self, table: &str, chain: &str) -> bool {
        command::run(&[&self.iptables, "-w", "5", "-t", table, "-n", "-L", chain]).is_ok()
    }

    fn apply(&self, table: &str, lines: &str) -> Result<()> {
        let restore = format!("{}-restore", self.iptables);
        command::run_with_input(&[restore.as_str(), "--noflush", "--wait"], &format!("*{table}\n{lines}COMMIT\n"))
            .map(|_| ())
    }
}

/// The masquerade rules for a network and a node's subnet.
fn masquerade(network: IpNet, pod_cidr: IpNet) -> Set {
    let comment = "-m comment --comment \"flanneld masq\"";
    let chain = "FLANNEL-POSTRTG";
    let family = Family::of(network.addr());
    let multicast = if family == Family::V4 { "224.0.0.0/4" } else { "ff00::/8" };
    let inner = [
        format!("-m mark --mark 0x4000/0x4000 {comment} -j RETURN"),
        format!("-s {pod_cidr} -d {network} {comment} -j RETURN"),
        format!("-s {network} -d {pod_cidr} {comment} -j RETURN"),
        format!("! -s {network} -d {pod_cidr} {comment} -j RETURN"),
        format!("-s {network} ! -d {multicast} {comment} -j MASQUERADE --random-fully"),
        format!("! -s {network} -d {network} {comment} -j MASQUERADE --random-fully"),
    ];
    let jump = ("POSTROUTING", format!("{comment} -j {chain}"));
    let rules = std::iter::once(jump).chain(inner.into_iter().map(|rule| (chain, rule))).collect();
    Set { family, table: "nat", chain, rules }
}

/// The accept rules for a network.
fn forward(network: IpNet) -> Set {
    let comment = "-m comment --comment \"flanneld forward\"";
    let chain = "FLANNEL-FWD";
    let rules = vec![
        ("FORWARD", format!("{comment} -j {chain}")),
        (chain, format!("-s {network} {comment} -j ACCEPT")),
        (chain, format!("-d {network} {comment} -j ACCEPT")),
    ];
    Set { family: Family::of(network.addr()), table: "filter", chain, rules }
}

impl Rules {
    /// Recycles the rules of an older network or subnet (known from the old subnet.env), clears the chains, writes the rules.
    pub fn set_up(options: &Options, net_conf: &NetConf, subnets: &[IpNet]) -> Result<Rules> {
        let mut sets = Vec::new();
        for subnet in subnets {
            let family = Family::of(subnet.addr());
            let Some(network) = net_conf.network_of(family) else { continue };
            if options.ip_masq {
                recycle(options, network, *subnet);
                sets.push(masquerade(network, *subnet));
            }
            if options.iptables_forward_rules {
                sets.push(forward(network));
            }
        }
        for set in &sets {
            // Declaring a chain clears it, or makes it.
            Tools::find(set.family).apply(set.table, &format!(":{} - [0:0]\n", set.chain))?;
        }
        let rules = Rules { sets };
        rules.ensure();
        Ok(rules)
    }

    /// If one rule of a set is missing, the whole set is deleted and appended again, so that it moves to the end of its chain.
    pub fn ensure(&self) {
        for set in &self.sets {
            let tools = Tools::find(set.family);
            let whole = tools.chain_exists(set.table, set.chain)
                && set.rules.iter().all(|(chain, rule)| tools.holds(set.table, chain, rule));
            if whole {
                continue;
            }
            log(&format!("Some iptables rules of table {} are missing; deleting and recreating rules", set.table));
            if let Err(error) = rebuild(&tools, set) {
                log(&format!("Failed to ensure iptables rules: {error:#}"));
            }
        }
    }

    /// Removes the rules and the jumps; the chains stay, empty.
    pub fn remove(&self) {
        for set in &self.sets {
            log(&format!("Deleting iptables rules of table {}", set.table));
            delete(&Tools::find(set.family), set);
        }
    }
}

/// Deletes the rules of an older network or subnet, which the old subnet.env tells.
fn recycle(options: &Options, network: IpNet, subnet: IpNet) {
    let family = Family::of(network.addr());
    let Some((old_network, old_subnet)) = subnet::read(&options.subnet_file, family) else { return };
    if (old_network, old_subnet) == (network, subnet) {
        return;
    }
    log(&format!(
        "Current network or subnet ({network}, {subnet}) is not equal to previous one ({old_network}, {old_subnet}), trying to recycle old iptables rules"
    ));
    delete(&Tools::find(family), &masquerade(old_network, old_subnet));
}

fn delete(tools: &Tools, set: &Set) {
    let mut lines = String::new();
    for (chain, rule) in set.rules.iter().filter(|(chain, rule)| tools.holds(set.table, chain, rule)) {
        let _ = writeln!(lines, "-D {chain} {rule}");
    }
    if let Err(error) = tools.apply(set.table, &lines) {
        log(&format!("{error:#}"));
    }
}

fn rebuild(tools: &Tools, set: &Set) -> Result<()> {
    let mut lines = String::new();
    if !tools.chain_exists(set.table, set.chain) {
        let _ = writeln!(lines, ":{} - [0:0]", set.chain);
    }
    for (chain, rule) in set.rules.iter().filter(|(chain, rule)| tools.holds(set.table, chain, rule)) {
        let _ = writeln!(lines, "-D {chain} {rule}");
    }
    for (chain, rule) in &set.rules {
        let _ = writeln!(lines, "-A {chain} {rule}");
    }
    tools.apply(set.table, &lines)
}
