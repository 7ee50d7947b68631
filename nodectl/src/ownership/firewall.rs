//! iptables chains and rules, native nftables tables, sets: by prefix, comment hash, exact shape and name.

use std::collections::{HashMap, HashSet};

use super::known::Known;
use super::{Group, Inventory, plugins};
use crate::cni::Cni;
use crate::facts::{Backend, Facts, Family, NftTable, Saved};
use crate::rules::{self, OwnedRules};
use crate::step::words;

/// Everything of the packet filter that goes.
pub fn claim(facts: &Facts, cni: Cni, known: &Known, inventory: &mut Inventory) {
    for saved in &facts.firewall.saved {
        let found = owned(facts, saved, cni, known);
        if cni == Cni::Flannel {
            lookalikes(saved, &found, known, inventory);
        }
        if !found.owned.tables.is_empty() {
            tell(&found, cni, inventory);
            inventory.image.rules.push(found);
        }
    }
    for table in facts.traces.iter().flat_map(|t| &t.nft_tables).filter(|t| is_of_iptables(&t.table)) {
        opaque(table, cni, known, inventory);
    }
    plugins::claim(facts, known, inventory);
    for table in facts.firewall.nft_tables.iter().filter(|t| is_nft_table_of(t, cni)) {
        inventory.claim(Group::NftTables, table.clone(), "named as the agent names its own table");
        inventory.image.nft_tables.push(table.clone());
    }
    let sets: Vec<&String> = facts.firewall.sets.iter().filter(|s| cni == Cni::Calico && is_felix_set(s)).collect();
    let used = if sets.is_empty() { HashMap::new() } else { sets_of_others(facts, inventory) };
    for set in sets {
        if let Some(rule) = used.get(set.as_str()) {
            // The kernel keeps it as long as the rule stands.
            inventory.stays(set, &format!("a rule of somebody else's uses this set of felix's: {rule}"));
            continue;
        }
        inventory.claim(Group::Sets, set.clone(), "felix's prefix of sets");
        inventory.image.sets.push(set.clone());
    }
}

/// The rules that stay, with the tool that shows them.
pub fn rules_of_others<'f>(facts: &'f Facts, inventory: &Inventory) -> Vec<(&'static str, &'f str)> {
    let mut all = Vec::new();
    for saved in &facts.firewall.saved {
        let image = inventory.image.rules.iter().find(|r| r.backend == saved.backend && r.family == saved.family);
        let gone: HashSet<String> = image
            .iter()
            .flat_map(|rules| &rules.owned.tables)
            .flat_map(|t| t.inside.iter().cloned().chain(t.hooks.iter().map(|(c, _, s)| format!("-A {c} {s}"))))
            .collect();
        let lines = saved.text.lines().filter(|line| line.starts_with("-A ") && !gone.contains(*line));
        all.extend(lines.map(|line| (tool(saved.backend, saved.family), line)));
    }
    all
}

/// Sets that rules which stay look at or write to, each with one of those.
fn sets_of_others<'f>(facts: &'f Facts, inventory: &Inventory) -> HashMap<&'f str, String> {
    let mut used = HashMap::new();
    for (tool, line) in rules_of_others(facts, inventory).into_iter().filter(|(_, line)| line.contains("-set ")) {
        let mut words = line.split(' ');
        while let Some(word) = words.next() {
            if ["--match-set", "--add-set", "--del-set", "--map-set"].contains(&word) {
                used.extend(words.next().map(|set| (set, format!("{tool} {line}"))));
            }
        }
    }
    used
}

/// What the CNI owns of one dump.
fn owned(facts: &Facts, saved: &Saved, cni: Cni, known: &Known) -> OwnedRules {
    let containers = container_chains(facts, saved, known);
    let unnamed = match cni {
        Cni::Flannel => {
            let seen =
                known.unnamed.iter().filter(|(backend, _)| *backend == saved.backend).map(|(_, network)| *network);
            rules::unnamed_flannel_rules(&saved.text, &known.networks, &seen.collect::<Vec<_>>())
        }
        Cni::Calico => HashSet::new(),
    };
    let chain = |_: &str, name: &str| is_chain_of(name, cni) || containers.contains(name);
    let rule = |table: &str, chain: &str, spec: &str| {
        let by_name = match cni {
            Cni::Flannel => rules::is_flannel_rule(table, chain, spec),
            Cni::Calico => rules::is_felix_rule(chain, spec),
        };
        by_name
            || rules::jump(spec).is_some_and(|target| containers.contains(target))
            || (!unnamed.is_empty() && unnamed.contains(&(table.to_owned(), chain.to_owned(), spec.to_owned())))
    };
    OwnedRules { backend: saved.backend, family: saved.family, owned: rules::owned(&saved.text, chain, rule) }
}

/// Rules that flannel up to 0.16.1 would have written just so, and administrators do as well.
fn lookalikes(saved: &Saved, found: &OwnedRules, known: &Known, inventory: &mut Inventory) {
    let hooks: HashSet<&str> =
        found.owned.tables.iter().flat_map(|t| &t.hooks).map(|(_, _, spec)| spec.as_str()).collect();
    for spec in rules::unnamed_forward(&saved.text, &known.networks).into_iter().filter(|spec| !hooks.contains(spec)) {
        inventory.undecided(
            format!("{} filter FORWARD: {spec}", tool(saved.backend, saved.family)),
            "flannel 0.9 to 0.16.1 wrote it so, but without its masquerading beside it an administrator may have written it",
        );
    }
}

fn is_chain_of(name: &str, cni: Cni) -> bool {
    match cni {
        Cni::Flannel => rules::is_flannel_chain(name),
        Cni::Calico => rules::is_felix_chain(name),
    }
}

/// Chains that plugins made for this network's containers: as a rule's comment says, or as the container's name hashes.
fn container_chains(facts: &Facts, saved: &Saved, known: &Known) -> HashSet<String> {
    let mut chains: HashSet<String> = HashSet::new();
    if known.names.is_empty() {
        return chains;
    }
    for line in saved.text.lines().filter(|line| line.starts_with("-A ")) {
        let Some((network, container)) = plugins::named(line) else { continue };
        if !plugins::is_owned(known, &network, &container) {
            continue;
        }
        let inside = line.split(' ').nth(1);
        chains.extend(inside.into_iter().chain(rules::jump(line)).map(str::to_owned));
    }
    for note in facts.traces.iter().flat_map(|t| &t.notes) {
        if plugins::is_owned(known, &note.network, &note.container) {
            chains.extend(plugins::chain_names(&note.network, &note.container));
        }
    }
    chains.retain(|name| plugins::is_container_chain(name));
    chains
}

/// What was found, in words: each chain with its rules, and each rule in somebody else's chain.
fn tell(found: &OwnedRules, cni: Cni, inventory: &mut Inventory) {
    let tool = tool(found.backend, found.family);
    for table in &found.owned.tables {
        for chain in &table.chains {
            let start = format!("-A {chain} ");
            let count = table.inside.iter().filter(|rule| rule.starts_with(&start)).count();
            let why = match (is_chain_of(chain, cni), cni) {
                (true, Cni::Flannel) => "a chain of flannel's, by its name",
                (true, Cni::Calico) => "a chain of felix's, by its prefix",
                (false, _) => {
                    "made by a plugin for a pod of this network: a comment names both, or the hash in its name"
                }
            };
            inventory.claim(
                Group::Chains,
                format!("{tool} {} {chain} ({})", table.table, words::count(count, "rule")),
                why,
            );
        }
        for (chain, number, spec) in &table.hooks {
            let comment = rules::comment(spec);
            let why = match rules::jump(spec) {
                Some(target) if is_chain_of(target, cni) => "jumps to a chain that goes",
                Some(target) if plugins::is_container_chain(target) => "jumps to a chain that goes",
                _ if comment.is_some_and(rules::is_felix_comment) => "felix's hash in its comment",
                _ if comment.is_some() => "flannel's comment, on a rule as flannel writes it",
                _ => "one of the whole set of rules without comments that flannel up to 0.16.1 writes for its network",
            };
            inventory.claim(Group::Rules, format!("{tool} {} {chain} {number}: {spec}", table.table), why);
        }
    }
}

/// A table that iptables cannot show: by the kernel's own listing, and removed by handles.
fn opaque(table: &NftTable, cni: Cni, known: &Known, inventory: &mut Inventory) {
    let mut chains: HashSet<&str> = table.chains.iter().map(String::as_str).filter(|c| is_chain_of(c, cni)).collect();
    for rule in &table.rules {
        let ours = |c: &String| plugins::named(c).is_some_and(|(net, id)| plugins::is_owned(known, &net, &id));
        if rule.comments.iter().any(ours) {
            let named = [Some(rule.chain.as_str()), rule.jump.as_deref()];
            chains.extend(named.into_iter().flatten().filter(|c| plugins::is_container_chain(c)));
        }
    }
    for rule in table.rules.iter().filter(|rule| !chains.contains(rule.chain.as_str())) {
        let named = rule.table.split_once(' ').map_or("", |(_, name)| name);
        let by_comment = rule.comments.first().is_some_and(|c| match cni {
            Cni::Flannel => rules::flannel_comment(named, &rule.chain) == Some(c.as_str()),
            Cni::Calico => rules::is_kernel_chain(&rule.chain) && rules::is_felix_comment(c),
        });
        if by_comment || rule.jump.as_deref().is_some_and(|target| chains.contains(target)) {
            inventory.claim(
                Group::NftRules,
                plugins::rule_text(rule),
                "jumps to a chain that goes, or bears the agent's comment",
            );
            inventory.image.nft_rules.push(rule.clone());
        }
    }
    for chain in table.chains.iter().filter(|c| chains.contains(c.as_str())) {
        inventory.claim(
            Group::Chains,
            format!("nft {} {chain}", table.table),
            "a chain of the CNI's, in a table that iptables cannot show",
        );
        inventory.image.nft_chains.push((table.table.clone(), chain.clone()));
    }
}

/// felix's live and temporary sets (`cali40...`, `cali4t1`, the same with 6) and its historic ones.
fn is_felix_set(name: &str) -> bool {
    let temporary = |prefix: &str| {
        name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
    };
    ["cali40", "cali60", "felix-"].iter().any(|p| name.starts_with(p)) || temporary("cali4t") || temporary("cali6t")
}

/// Native tables of both, as `family name`.
fn is_nft_table_of(table: &str, cni: Cni) -> bool {
    match cni {
        Cni::Flannel => ["ip flannel-ipv4", "ip6 flannel-ipv6"].contains(&table),
        Cni::Calico => ["ip calico", "ip6 calico", "arp calico-arp"].contains(&table),
    }
}

/// Tables that iptables-nft makes.
fn is_of_iptables(table: &str) -> bool {
    table.split_once(' ').is_some_and(|(family, name)| {
        ["ip", "ip6"].contains(&family) && ["filter", "nat", "mangle", "raw", "security"].contains(&name)
    })
}

/// The tool that shows these rules.
pub fn tool(backend: Backend, family: Family) -> &'static str {
    match (backend, family) {
        (Backend::Nft, Family::Ipv4) => "iptables-nft",
        (Backend::Nft, Family::Ipv6) => "ip6tables-nft",
        (Backend::Legacy, Family::Ipv4) => "iptables-legacy",
        (Backend::Legacy, Family::Ipv6) => "ip6tables-legacy",
    }
}
