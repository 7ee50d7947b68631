//! Taking Calico off a full node: `nodectl cleanup`, and the shell loops of the runbooks, one object at a time.

use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::Value;

use super::figure::{Figure, milliseconds};
use crate::command;

const LINKS: usize = 1_000;
const ROUTES: usize = 10_000;
const RULES: usize = 5_000;
const SETS: usize = 1_000;
/// Rules in a chain, as a policy has them.
const RULES_OF_A_CHAIN: usize = 50;

/// The loops, by what they take away and by the name of nodectl's part that does the same. Rules go before the sets that they use.
const LOOPS: [(&str, &str, &str); 4] = [
    (
        "rules",
        "rules",
        "iptables-save -t filter | grep '^-A' | grep -e cali: -e cali- | sed 's/^-A/-D/' | while read -r rule; do eval iptables \"$rule\"; done
         for chain in $(iptables-save -t filter | sed -n 's/^:\\(cali-[^ ]*\\) .*/\\1/p'); do iptables -X \"$chain\"; done",
    ),
    ("sets", "sets", "for set in $(ipset list -n | grep '^cali'); do ipset destroy \"$set\"; done"),
    ("routes", "routes", "ip route show proto 80 | while read -r route; do ip route delete $route; done"),
    ("links", "devices", "for link in $(ip -o link | grep -oE 'cali[0-9a-f]{11}'); do ip link delete \"$link\"; done"),
];

/// In the node.
pub(super) fn run() -> Result<Vec<Figure>> {
    make()?;
    let mut by_hand = Vec::new();
    for (_, _, script) in LOOPS {
        let begun = Instant::now();
        command::run(&["sh", "-c", script])?;
        by_hand.push(milliseconds(begun.elapsed()));
    }
    make()?;
    let begun = Instant::now();
    let said = command::run(&["nodectl", "cleanup", "--calico", "--yes", "--output", "json"])?;
    let whole = milliseconds(begun.elapsed());
    let said: Value = serde_json::from_str(&said).context("nodectl's answer is not JSON")?;
    let parts = said["spent"].as_array().context("nodectl does not say what it spent")?;
    let spent = |part: &str| parts.iter().find(|p| p["part"] == part).and_then(|p| p["ms"].as_f64());
    let total: f64 = by_hand.iter().sum();
    let mut figures = Vec::new();
    for ((what, part, _), other) in LOOPS.iter().zip(by_hand) {
        let count = [("rules", RULES), ("sets", SETS), ("routes", ROUTES), ("links", LINKS)];
        let count = count.iter().find(|(name, _)| name == what).map_or(0, |(_, n)| *n);
        let ours = spent(part).with_context(|| format!("nodectl spent nothing on {part}"))?;
        figures.push(Figure::new(&format!("remove {count} {what}, wall"), "ms", &[ours], "one by one", &[other])?);
    }
    figures.push(Figure::new("remove all of it, looking included", "ms", &[whole], "shell loops", &[total])?);
    Ok(figures)
}

/// A node full of Calico's, with eth0 and nothing else.
fn make() -> Result<()> {
    let mut links = String::new();
    for n in 0..LINKS {
        writeln!(links, "link add cali{n:011x} type veth peer name p{n} netns pods")?;
    }
    let mut routes = String::new();
    for n in 0..ROUTES {
        let (high, low) = (n / 250, n % 250);
        let kind = if n % 2 == 0 { "blackhole " } else { "" };
        let via = if n % 2 == 0 { "" } else { " via 192.168.77.254 dev eth0" };
        writeln!(routes, "route add {kind}10.244.{high}.{low}/32{via} proto 80")?;
    }
    let mut sets = String::from("create cali40all-ipam-pools hash:net\nadd cali40all-ipam-pools 10.244.0.0/16\n");
    for n in 1..SETS {
        writeln!(sets, "create cali40s:{n:016x} hash:net\nadd cali40s:{n:016x} 10.244.{}.0/24", n % 250)?;
    }
    let (mut chains, mut rules) = (String::from("*filter\n"), String::new());
    for n in 0..RULES {
        let chain = n / RULES_OF_A_CHAIN;
        if n % RULES_OF_A_CHAIN == 0 {
            writeln!(chains, ":cali-pi-{chain} - [0:0]")?;
            writeln!(rules, "-A FORWARD -m comment --comment \"cali:{n:016x}\" -j cali-pi-{chain}")?;
        } else {
            let set = n % (SETS - 1) + 1;
            writeln!(
                rules,
                "-A cali-pi-{chain} -m comment --comment \"cali:{n:016x}\" -m set --match-set cali40s:{set:016x} src -j MARK --set-xmark 0x10000/0x10000"
            )?;
        }
    }
    command::run(&["sh", "-c", "ip netns del pods 2>/dev/null || true; ip netns add pods"])?;
    command::run_with_input(&["ip", "-batch", "-"], &(links + &routes))?;
    command::run_with_input(&["ipset", "restore"], &sets)?;
    command::run_with_input(&["iptables-restore", "--noflush"], &format!("{chains}{rules}COMMIT\n")).map(drop)
}
