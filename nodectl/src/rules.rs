//! iptables rules as text: which of them a CNI owns, the batch that removes them, the batch that puts them back. Pure.
//!
//! A batch is one `iptables-restore --noflush` input: atomic per table, foreign chains and rules untouched.

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::facts::{Backend, Family};

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

/// flannel's chains, all releases.
pub fn is_flannel_chain(name: &str) -> bool {
    matches!(name, "FLANNEL" | "FLANNEL-POSTRTG" | "FLANNEL-FWD")
}

/// felix's chains, historic prefixes included.
pub fn is_felix_chain(name: &str) -> bool {
    ["cali-", "califw-", "calitw-", "califh-", "calith-", "calipi-", "calipo-", "felix-"]
        .iter()
        .any(|p| name.starts_with(p))
}

/// felix's comment: `cali:` and 16 characters of base64url. A user's comment that merely contains "cali" is not felix's.
pub fn is_felix_comment(comment: &str) -> bool {
    comment.strip_prefix("cali:").is_some_and(|hash| {
        hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    })
}

/// felix's rules in kernel chains: by the hash in the first comment, or by a jump to its chains.
pub fn is_felix_rule(spec: &str) -> bool {
    comment(spec).is_some_and(is_felix_comment) || jump(spec).is_some_and(is_felix_chain)
}

/// flannel's comments (0.16.2 and later).
pub fn is_flannel_comment(comment: &str) -> bool {
    matches!(comment, "flanneld masq" | "flanneld forward")
}

/// flannel's rules in kernel chains that name it: jumps to its chains, or its comment on a rule as it writes them.
pub fn is_flannel_rule(spec: &str) -> bool {
    jump(spec).is_some_and(is_flannel_chain)
        || (comment(spec).is_some_and(is_flannel_comment) && Shape::parse(spec).is_some_and(|s| s.flannels().is_some()))
}

/// flannel's rules in kernel chains that do not name it (0.5.6 to 0.16.1): those of the networks given, and only where the
/// whole set stands, since each alone may be an administrator's. As (table, chain, specification).
pub fn unnamed_flannel_rules(save: &str, networks: &[IpNet]) -> HashSet<(String, String, String)> {
    let mut found = HashSet::new();
    for (table, chain) in [("nat", "POSTROUTING"), ("filter", "FORWARD")] {
        let rules: Vec<(&str, FlannelRule)> = specs(save, table, chain)
            .filter(|spec| comment(spec).is_none())
            .filter_map(|spec| Some((spec, Shape::parse(spec)?.flannels()?)))
            .collect();
        for network in networks {
            let has = |what: What| rules.iter().any(|(_, rule)| rule.network == *network && rule.what == what);
            let whole = match table {
                "nat" => {
                    has(What::Outward) && has(What::Inward) && has(What::Within)
                        // Up to 0.5.5 a chain of its own holds the rest.
                        || has(What::Inward) && specs(save, table, chain).any(|spec| jump(spec) == Some("FLANNEL"))
                }
                _ => has(What::From) && has(What::To),
            };
            let chosen = rules.iter().filter(|(_, rule)| whole && rule.network == *network);
            found.extend(chosen.map(|(spec, _)| (table.to_owned(), chain.to_owned(), (*spec).to_owned())));
        }
    }
    found
}

/// The pod networks that flannel's own rules name.
pub fn flannel_networks(save: &str) -> Vec<IpNet> {
    let lines = save.lines().filter_map(|line| line.strip_prefix("-A ")?.split_once(' '));
    let own = lines.filter(|(chain, spec)| is_flannel_chain(chain) || comment(spec).is_some_and(is_flannel_comment));
    own.filter_map(|(_, spec)| {
        let rule = Shape::parse(spec)?.flannels()?;
        (rule.what == What::Outward || rule.what == What::From).then_some(rule.network)
    })
    .collect()
}

/// What of a rule flannel uses: its ends, its target, and nothing else.
#[derive(Debug, Default, PartialEq)]
struct Shape {
    src: Option<(bool, IpNet)>,
    dst: Option<(bool, IpNet)>,
    target: String,
}

/// A rule as flannel writes them outside of its chains.
#[derive(Debug, PartialEq)]
struct FlannelRule {
    what: What,
    network: IpNet,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum What {
    /// Out of the network: masqueraded.
    Outward,
    /// Into the network from elsewhere: masqueraded.
    Inward,
    /// Within the network: left alone.
    Within,
    /// Into this node's part: left alone.
    Local,
    /// Forwarded from the network.
    From,
    /// Forwarded to the network.
    To,
}

impl Shape {
    /// `None` for a rule that looks at anything else.
    fn parse(spec: &str) -> Option<Shape> {
        let plain = match spec.split_once("-m comment --comment ") {
            Some((before, after)) => {
                let rest = match after.strip_prefix('"') {
                    Some(quoted) => quoted.split_once('"')?.1,
                    None => after.split_once(' ').map_or("", |(_, rest)| rest),
                };
                format!("{before}{rest}")
            }
            None => spec.to_owned(),
        };
        let (mut shape, mut negated) = (Shape::default(), false);
        let mut words = plain.split_whitespace();
        while let Some(word) = words.next() {
            match word {
                "!" => negated = true,
                "-s" => shape.src = Some((std::mem::take(&mut negated), words.next()?.parse().ok()?)),
                "-d" => shape.dst = Some((std::mem::take(&mut negated), words.next()?.parse().ok()?)),
                "-j" => shape.target = words.next()?.to_owned(),
                "--random-fully" => {}
                _ => return None,
            }
        }
        Some(shape)
    }

    fn flannels(&self) -> Option<FlannelRule> {
        let multicast = |net: &IpNet| ["224.0.0.0/4", "ff00::/8"].contains(&net.to_string().as_str());
        let rule = |what, network| Some(FlannelRule { what, network });
        match (self.src, self.dst, self.target.as_str()) {
            (Some((false, src)), Some((true, dst)), "MASQUERADE") if multicast(&dst) => rule(What::Outward, src),
            (Some((true, src)), Some((false, dst)), "MASQUERADE") if src == dst => rule(What::Inward, dst),
            (Some((false, src)), Some((false, dst)), "RETURN") if src == dst => rule(What::Within, src),
            (Some((true, net)), Some((false, subnet)), "RETURN") if net.contains(&subnet) => rule(What::Local, net),
            (Some((false, src)), None, "ACCEPT") => rule(What::From, src),
            (None, Some((false, dst)), "ACCEPT") => rule(What::To, dst),
            _ => None,
        }
    }
}

/// Specifications of the rules in one chain of one table.
fn specs<'s>(save: &'s str, table: &str, chain: &str) -> impl Iterator<Item = &'s str> {
    let (table, prefix, mut inside) = (table.to_owned(), format!("-A {chain} "), false);
    save.lines().filter_map(move |line| {
        if let Some(name) = line.strip_prefix('*') {
            inside = name == table;
        }
        line.strip_prefix(&prefix).filter(|_| inside)
    })
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
        let owned = owned(SAVE, |_, c| is_flannel_chain(c), |_, _, r| is_flannel_rule(r));
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
        let owned = owned(SAVE, |_, c| is_felix_chain(c), |_, _, r| is_felix_rule(r));
        assert_eq!(owned.tables.len(), 1);
        assert_eq!(owned.tables[0].hooks.len(), 1);
        assert_eq!(owned.tables[0].chains, ["cali-FORWARD", "cali-x"]);
    }

    #[test]
    fn rules_without_a_name_are_flannels_only_as_a_whole_set() {
        let net: IpNet = "10.244.0.0/16".parse().unwrap();
        let all = [
            "-s 10.244.0.0/16 -d 10.244.0.0/16 -j RETURN",
            "-s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
            "! -s 10.244.0.0/16 -d 10.244.1.0/24 -j RETURN",
            "! -s 10.244.0.0/16 -d 10.244.0.0/16 -j MASQUERADE --random-fully",
        ];
        let save = |rules: &[&str]| {
            let lines: String = rules.iter().map(|r| format!("-A POSTROUTING {r}\n")).collect();
            format!("*nat\n:POSTROUTING ACCEPT\n-A POSTROUTING -s 10.244.9.9/32 -j MASQUERADE\n{lines}COMMIT\n")
        };
        assert_eq!(unnamed_flannel_rules(&save(&all), &[net]).len(), 4);
        assert_eq!(unnamed_flannel_rules(&save(&all), &["10.0.0.0/8".parse().unwrap()]).len(), 0);
        assert_eq!(unnamed_flannel_rules(&save(&all[1..]), &[net]).len(), 0, "an administrator may have three of them");
        let forward = "*filter\n-A FORWARD -s 10.244.0.0/16 -j ACCEPT\n-A FORWARD -d 10.244.0.0/16 -j ACCEPT\nCOMMIT\n";
        assert_eq!(unnamed_flannel_rules(forward, &[net]).len(), 2);
        assert!(
            unnamed_flannel_rules(&forward.replace("-d 10.244.0.0/16 -j", "-d 10.244.0.0/16 -i eth0 -j"), &[net])
                .is_empty()
        );
    }

    #[test]
    fn flannels_comment_alone_makes_no_rule_flannels() {
        assert!(is_flannel_rule("-s 10.244.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT"));
        assert!(!is_flannel_rule("-p udp --dport 8472 -m comment --comment \"flanneld forward\" -j ACCEPT"));
        let masq = "*nat\n-A FLANNEL-POSTRTG -s 10.5.0.0/16 ! -d 224.0.0.0/4 -m comment --comment \"flanneld masq\" -j MASQUERADE\nCOMMIT\n";
        assert_eq!(flannel_networks(masq), ["10.5.0.0/16".parse().unwrap()]);
    }
}
