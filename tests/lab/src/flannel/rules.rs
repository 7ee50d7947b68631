//! FLANNEL-POSTRTG and FLANNEL-FWD in the layout of v0.21.4 and later, looked at again and again.

use std::fmt::Write;

use anyhow::Result;
use ipnet::Ipv4Net;

use crate::agent;
use crate::command;

use super::options::{NetConf, Options};
use super::{log, subnet};

/// One table's chain with the jump to it.
#[derive(Debug, Clone)]
struct Set {
    table: &'static str,
    chain: &'static str,
    /// (chain, arguments), in the order that is needed.
    rules: Vec<(&'static str, String)>,
}

/// The rules that flanneld keeps.
#[derive(Debug)]
pub struct Rules {
    sets: Vec<Set>,
    tools: Tools,
}

/// The iptables backend in use.
#[derive(Debug, Clone)]
struct Tools {
    iptables: String,
}

impl Tools {
    fn find() -> Tools {
        Tools { iptables: agent::env("LAB_IPTABLES").unwrap_or_else(|| "iptables-nft".to_owned()) }
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
fn masquerade(network: Ipv4Net, pod_cidr: Ipv4Net) -> Set {
    let comment = "-m comment --comment \"flanneld masq\"";
    let chain = "FLANNEL-POSTRTG";
    let inner = [
        format!("-m mark --mark 0x4000/0x4000 {comment} -j RETURN"),
        format!("-s {pod_cidr} -d {network} {comment} -j RETURN"),
        format!("-s {network} -d {pod_cidr} {comment} -j RETURN"),
        format!("! -s {network} -d {pod_cidr} {comment} -j RETURN"),
        format!("-s {network} ! -d 224.0.0.0/4 {comment} -j MASQUERADE --random-fully"),
        format!("! -s {network} -d {network} {comment} -j MASQUERADE --random-fully"),
    ];
    let jump = ("POSTROUTING", format!("{comment} -j {chain}"));
    let rules = std::iter::once(jump).chain(inner.into_iter().map(|rule| (chain, rule))).collect();
    Set { table: "nat", chain, rules }
}

/// The accept rules for a network.
fn forward(network: Ipv4Net) -> Set {
    let comment = "-m comment --comment \"flanneld forward\"";
    let chain = "FLANNEL-FWD";
    let rules = vec![
        ("FORWARD", format!("{comment} -j {chain}")),
        (chain, format!("-s {network} {comment} -j ACCEPT")),
        (chain, format!("-d {network} {comment} -j ACCEPT")),
    ];
    Set { table: "filter", chain, rules }
}

impl Rules {
    /// Recycles the rules of an older network or subnet (known from the old subnet.env), clears the chains, writes the rules.
    pub fn set_up(options: &Options, net_conf: &NetConf, pod_cidr: Ipv4Net) -> Result<Rules> {
        let tools = Tools::find();
        let mut sets = Vec::new();
        if options.ip_masq {
            if let Some((old_network, old_subnet)) = subnet::read(&options.subnet_file)
                && (old_network, old_subnet) != (net_conf.network, pod_cidr)
            {
                log(&format!(
                    "Current network or subnet ({}, {pod_cidr}) is not equal to previous one ({old_network}, {old_subnet}), trying to recycle old iptables rules",
                    net_conf.network
                ));
                delete(&tools, &masquerade(old_network, old_subnet));
            }
            sets.push(masquerade(net_conf.network, pod_cidr));
        }
        if options.iptables_forward_rules {
            sets.push(forward(net_conf.network));
        }
        for set in &sets {
            // Declaring a chain clears it, or makes it.
            tools.apply(set.table, &format!(":{} - [0:0]\n", set.chain))?;
        }
        let rules = Rules { sets, tools };
        rules.ensure();
        Ok(rules)
    }

    /// If one rule of a set is missing, the whole set is deleted and appended again, so that it moves to the end of its chain.
    pub fn ensure(&self) {
        for set in &self.sets {
            let whole = self.tools.chain_exists(set.table, set.chain)
                && set.rules.iter().all(|(chain, rule)| self.tools.holds(set.table, chain, rule));
            if whole {
                continue;
            }
            log(&format!("Some iptables rules of table {} are missing; deleting and recreating rules", set.table));
            if let Err(error) = rebuild(&self.tools, set) {
                log(&format!("Failed to ensure iptables rules: {error:#}"));
            }
        }
    }

    /// Removes the rules and the jumps; the chains stay, empty.
    pub fn remove(&self) {
        for set in &self.sets {
            log(&format!("Deleting iptables rules of table {}", set.table));
            delete(&self.tools, set);
        }
    }
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
