//! iptables rules as text: which of them a CNI owns, the batch that removes them, the batch that puts them back. Pure.
//!
//! A batch is one `iptables-restore --noflush` input: atomic per table, foreign chains and rules untouched.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::facts::{Backend, Family};

mod flannel;

pub use flannel::{
    flannel_comment, flannel_networks, is_flannel_chain, is_flannel_rule, unnamed_flannel_rules, unnamed_forward,
    unnamed_networks,
};

/// What a CNI owns in one iptables variant and family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedRules {
    /// iptables variant.
    pub backend: Backend,
    /// Address family.
    pub family: Family,
    /// What is owned.
    pub owned: Owned,
}

/// What a CNI owns of one `iptables-save` output.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    /// Per table.
    pub tables: Vec<OwnedTable>,
}

/// What a CNI owns in one table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedTable {
    /// Table name.
    pub table: String,
    /// Chains, in the order of the dump.
    pub chains: Vec<String>,
    /// Rules inside those chains, as `-A CHAIN ...`.
    pub inside: Vec<String>,
    /// Rules in others' chains: the chain, the rule's number there (from 1) and its specification.
    pub hooks: Vec<(String, usize, String)>,
}

/// felix's chains, historic prefixes included.
pub fn is_felix_chain(name: &str) -> bool {
    ["cali-", "califw-", "calitw-", "califh-", "calith-", "calipi-", "calipo-", "felix-"]
        .iter()
        .any(|p| name.starts_with(p))
}

/// The kernel's own chains: agents write their hooks into these alone, and look at no others.
pub fn is_kernel_chain(name: &str) -> bool {
    matches!(name, "PREROUTING" | "INPUT" | "FORWARD" | "OUTPUT" | "POSTROUTING")
}

/// felix's comment: `cali:` and 16 characters of base64url. A user's comment that merely contains "cali" is not felix's, nor is
/// one of 16 small letters and dashes ("cali:allow-office-vpn"): a hash looks so once in half a million.
pub fn is_felix_comment(comment: &str) -> bool {
    comment.strip_prefix("cali:").is_some_and(|hash| {
        hash.len() == 16
            && hash.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && hash.bytes().any(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
    })
}

/// felix's rules in others' chains: in the kernel's by the hash in the first comment, elsewhere by a jump to its chains alone.
pub fn is_felix_rule(chain: &str, spec: &str) -> bool {
    is_kernel_chain(chain) && comment(spec).is_some_and(is_felix_comment) || jump(spec).is_some_and(is_felix_chain)
}

/// Finds what is owned in a dump. `chain` is asked with the table and the chain's name, `rule` with the table, the chain and
/// the rule's specification.
pub fn owned(save: &str, chain: impl Fn(&str, &str) -> bool, rule: impl Fn(&str, &str, &str) -> bool) -> Owned {
    let mut owned = Owned::default();
    let mut current = OwnedTable::default();
    let mut numbers: HashMap<String, usize> = HashMap::new();
    for line in save.lines() {
        if let Some(table) = line.strip_prefix('*') {
            current = OwnedTable { table: table.to_owned(), ..OwnedTable::default() };
            numbers.clear();
        } else if let Some(declared) = line.strip_prefix(':') {
            let name = declared.split(' ').next().unwrap_or_default();
            if chain(&current.table, name) {
                current.chains.push(name.to_owned());
            }
        } else if let Some(appended) = line.strip_prefix("-A ") {
            let (name, spec) = appended.split_once(' ').unwrap_or((appended, ""));
            let number = numbers.entry(name.to_owned()).and_modify(|n| *n += 1).or_insert(1);
            if chain(&current.table, name) {
                current.inside.push(line.to_owned());
            } else if rule(&current.table, name, spec) {
                current.hooks.push((name.to_owned(), *number, spec.to_owned()));
            }
        } else if line == "COMMIT" && !(current.chains.is_empty() && current.hooks.is_empty()) {
            owned.tables.push(std::mem::take(&mut current));
        }
    }
    owned
}

/// The batch that removes all of it; empty where nothing is owned.
pub fn take_out(owned: &Owned) -> String {
    let mut text = String::new();
    for table in &owned.tables {
        text.push_str(&format!("*{}\n", table.table));
        // Declaring a chain flushes it, so that no rule inside holds another chain when -X comes.
        table.chains.iter().for_each(|c| text.push_str(&format!(":{c} - [0:0]\n")));
        table.hooks.iter().for_each(|(chain, _, spec)| text.push_str(&format!("-D {chain} {spec}\n")));
        table.chains.iter().for_each(|c| text.push_str(&format!("-X {c}\n")));
        text.push_str("COMMIT\n");
    }
    text
}

/// The batch that puts all of it back into what stands now (`save`); empty where nothing is missing.
///
/// Hooks that stand are left alone; missing ones go to the number they had, or to the end of a chain that has become
/// shorter (a number past the end would fail the whole batch).
pub fn put_back(owned: &Owned, save: &str) -> String {
    let present = appended(save);
    let mut text = String::new();
    for table in &owned.tables {
        let has = |line: &str| present.contains(&(table.table.clone(), line.to_owned()));
        let hook_line = |chain: &str, spec: &str| format!("-A {chain} {spec}");
        let missing: Vec<_> = table.hooks.iter().filter(|(c, _, s)| !has(&hook_line(c, s))).collect();
        if missing.is_empty() && table.inside.iter().all(|rule| has(rule)) {
            continue;
        }
        text.push_str(&format!("*{}\n", table.table));
        table.chains.iter().for_each(|c| text.push_str(&format!(":{c} - [0:0]\n")));
        table.inside.iter().for_each(|rule| text.push_str(&format!("{rule}\n")));
        let mut lengths: HashMap<&str, usize> = HashMap::new();
        for (chain, number, spec) in missing {
            let length = lengths.entry(chain).or_insert_with(|| length(save, &table.table, chain));
            text.push_str(&format!("-I {chain} {} {spec}\n", (*number).min(*length + 1)));
            *length += 1;
        }
        text.push_str("COMMIT\n");
    }
    text
}

/// Every `-A` line of a dump with its table.
fn appended(save: &str) -> HashSet<(String, String)> {
    let mut table = String::new();
    let mut lines = HashSet::new();
    for line in save.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name.to_owned();
        } else if line.starts_with("-A ") {
            lines.insert((table.clone(), line.to_owned()));
        }
    }
    lines
}

/// Number of rules in a chain.
fn length(save: &str, table: &str, chain: &str) -> usize {
    let prefix = format!("-A {chain} ");
    let mut in_table = false;
    save.lines()
        .filter(|line| {
            if let Some(name) = line.strip_prefix('*') {
                in_table = name == table;
            }
            in_table && line.starts_with(&prefix)
        })
        .count()
}

/// Target of a rule's `-j` or `-g`.
pub fn jump(spec: &str) -> Option<&str> {
    let mut words = spec.split(' ');
    words.find(|w| *w == "-j" || *w == "-g")?;
    words.next()
}

/// Text of a rule's first comment, quotes taken off.
pub fn comment(spec: &str) -> Option<&str> {
    let (_, after) = spec.split_once("--comment ")?;
    match after.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').map(|(text, _)| text),
        None => after.split(' ').next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVE: &str = "*nat\n:PREROUTING ACCEPT\n:POSTROUTING ACCEPT\n:FLANNEL-POSTRTG -\n:KUBE-POSTROUTING -\n\
        -A POSTROUTING -j KUBE-POSTROUTING\n\
        -A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG\n\
        -A POSTROUTING -s 10.0.0.0/8 -m comment --comment \"not flanneld, localip\" -j ACCEPT\n\
        -A FLANNEL-POSTRTG -s 10.244.0.0/16 -m comment --comment \"flanneld masq\" -j MASQUERADE\nCOMMIT\n\
        *filter\n:FORWARD ACCEPT\n:cali-FORWARD -\n:cali-x -\n\
        -A FORWARD -m comment --comment \"cali:wUHhoiAYhphO9Mso\" -j cali-FORWARD\n\
        -A FORWARD -m comment --comment \"cali is nice\" -j ACCEPT\n-A cali-FORWARD -j cali-x\nCOMMIT\n";

    #[test]
    fn only_what_is_flannels_goes_and_comes_back_in_its_place() {
        let owned = owned(SAVE, |_, c| is_flannel_chain(c), is_flannel_rule);
        assert_eq!(
            take_out(&owned),
            "*nat\n:FLANNEL-POSTRTG - [0:0]\n-D POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG\n-X FLANNEL-POSTRTG\nCOMMIT\n"
        );
        let gone = "*nat\n:POSTROUTING ACCEPT\n-A POSTROUTING -j KUBE-POSTROUTING\nCOMMIT\n";
        assert!(put_back(&owned, gone).contains("-I POSTROUTING 2 -m comment"));
        assert!(put_back(&owned, "*nat\nCOMMIT\n").contains("-I POSTROUTING 1 -m comment"));
        assert!(put_back(&owned, gone).contains("-A FLANNEL-POSTRTG -s 10.244.0.0/16"));
        assert_eq!(put_back(&owned, SAVE), "");
    }

    #[test]
    fn felix_is_known_by_its_hash_and_not_by_the_word() {
        let owned = owned(SAVE, |_, c| is_felix_chain(c), |_, c, r| is_felix_rule(c, r));
        assert_eq!(owned.tables.len(), 1);
        assert_eq!(owned.tables[0].hooks.len(), 1);
        assert_eq!(owned.tables[0].chains, ["cali-FORWARD", "cali-x"]);
    }

    #[test]
    fn words_and_places_that_felix_does_not_use_are_somebody_elses() {
        let hash = "-s 10.1.1.1/32 -m comment --comment \"cali:AbCdefghijklmn0p\" -j DROP";
        assert!(is_felix_rule("INPUT", hash) && !is_felix_rule("OFFICE", hash), "felix looks into the kernel's chains");
        assert!(!is_felix_rule("INPUT", &hash.replace("AbCdefghijklmn0p", "allow-office-vpn")));
        assert!(is_felix_rule("OFFICE", "-j cali-FORWARD"), "its target goes");
    }
}
