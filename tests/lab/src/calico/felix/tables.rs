//! Making iptables agree with felix's rules: one look, and one restore per table if anything differs.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};

use crate::command;

use super::log;
use super::rules::{Rule, Table};

/// Chains of this and of earlier versions that felix takes for its own.
const OWN_PREFIXES: [&str; 8] = ["cali-", "califw-", "calitw-", "califh-", "calith-", "calipi-", "calipo-", "felix-"];

/// A table as iptables-save shows it: chain names, and each chain's rules without `-A CHAIN`.
#[derive(Debug, Default)]
struct Saved {
    chains: BTreeMap<String, Vec<String>>,
}

impl Saved {
    fn parse(text: &str) -> Saved {
        let mut chains: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix(':').and_then(|rest| rest.split_whitespace().next()) {
                chains.entry(name.to_owned()).or_default();
            } else if let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' ')) {
                chains.entry(chain.to_owned()).or_default().push(rule.to_owned());
            }
        }
        Saved { chains }
    }

    fn rules(&self, chain: &str) -> &[String] {
        self.chains.get(chain).map(Vec::as_slice).unwrap_or_default()
    }

    fn hashes(&self, chain: &str) -> Vec<&str> {
        self.rules(chain).iter().map(|rule| hash(rule)).collect()
    }
}

/// The hash in a rule's comment, or "".
fn hash(rule: &str) -> &str {
    let Some((_, rest)) = rule.split_once("cali:") else { return "" };
    rest.get(..16).unwrap_or("")
}

fn is_own(name: &str) -> bool {
    OWN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// A rule of a kernel chain that is felix's: by its comment, or by a jump into a chain of an earlier version.
fn is_own_rule(rule: &str) -> bool {
    !hash(rule).is_empty() || rule.split_whitespace().last().is_some_and(is_own)
}

/// Makes every table agree.
pub fn apply(tables: &[Table], iptables: &str) -> Result<()> {
    for table in tables {
        let save = format!("{iptables}-save");
        let saved = Saved::parse(&command::run(&[save.as_str(), "-t", table.name])?);
        if agrees(table, &saved) {
            continue;
        }
        log(&format!("Programming iptables table {}", table.name));
        let restore = format!("{iptables}-restore");
        command::run_with_input(&[restore.as_str(), "--noflush", "--wait", "10"], &script(table, &saved))
            .with_context(|| format!("iptables table {} could not be written", table.name))?;
    }
    Ok(())
}

fn wanted_hashes(rules: &[Rule]) -> Vec<&str> {
    rules.iter().map(|rule| rule.hash.as_str()).collect()
}

/// True if chains, hooks at the top and hooks at the end are as wanted, and nothing of felix's is left over.
fn agrees(table: &Table, saved: &Saved) -> bool {
    let chains = table
        .chains
        .iter()
        .all(|(name, rules)| saved.chains.contains_key(name) && saved.hashes(name) == wanted_hashes(rules));
    let leftover = saved.chains.keys().any(|name| is_own(name) && !table.chains.iter().any(|(known, _)| known == name));
    let kernel = saved.chains.keys().filter(|name| !is_own(name));
    let hooks = kernel
        .map(String::as_str)
        .chain(table.inserts.iter().map(|(name, _)| *name))
        .all(|name| hooks_agree(table, saved, name));
    chains && !leftover && hooks
}

fn of<'a>(hooks: &'a [(&'static str, Vec<Rule>)], chain: &str) -> Vec<&'a str> {
    hooks.iter().filter(|(name, _)| *name == chain).flat_map(|(_, rules)| wanted_hashes(rules)).collect()
}

fn hooks_agree(table: &Table, saved: &Saved, chain: &str) -> bool {
    let found = saved.hashes(chain);
    let (top, end) = (of(&table.inserts, chain), of(&table.appends, chain));
    let own = saved.rules(chain).iter().filter(|rule| is_own_rule(rule)).count();
    own == top.len() + end.len() && found.starts_with(&top) && found.ends_with(&end)
}

/// One transaction: felix's chains written anew, its rules in the kernel's chains taken out and put in again, leftovers removed.
fn script(table: &Table, saved: &Saved) -> String {
    let mut text = format!("*{}\n", table.name);
    let stale: Vec<&String> = saved
        .chains
        .keys()
        .filter(|name| is_own(name) && !table.chains.iter().any(|(known, _)| known == *name))
        .collect();
    for name in table.chains.iter().map(|(name, _)| name).chain(stale.iter().copied()) {
        let _ = writeln!(text, ":{name} - [0:0]");
    }
    for (chain, rules) in saved.chains.iter().filter(|(chain, _)| !is_own(chain)) {
        for rule in rules.iter().filter(|rule| is_own_rule(rule)) {
            let _ = writeln!(text, "-D {chain} {rule}");
        }
    }
    for (chain, rules) in &table.inserts {
        for rule in rules.iter().rev() {
            let _ = writeln!(text, "-I {chain} 1 {}", rule.text);
        }
    }
    for (chain, rules) in &table.appends {
        for rule in rules {
            let _ = writeln!(text, "-A {chain} {}", rule.text);
        }
    }
    for (chain, rules) in &table.chains {
        for rule in rules {
            let _ = writeln!(text, "-A {chain} {}", rule.text);
        }
    }
    for name in stale {
        let _ = writeln!(text, "-X {name}");
    }
    text.push_str("COMMIT\n");
    text
}
