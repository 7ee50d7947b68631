//! A node's network state in normal form, to compare before and after.
//!
//! Nothing in it depends on when it was taken: no indexes, counters, timers or learned entries.

mod collect;
mod links;
mod normal;

use std::collections::BTreeMap;

use anyhow::Result;

use crate::node::Node;

/// Sections by name, each a list of lines in a fixed order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// For instance "routes": ["default via 192.168.77.254 dev eth0 onlink", ...].
    pub sections: BTreeMap<String, Vec<String>>,
}

impl Snapshot {
    /// Takes a snapshot of a node.
    pub fn take(node: &dyn Node) -> Result<Snapshot> {
        let raw = collect::run(node)?;
        let sections = raw.into_iter().map(|(name, text)| normal::section(&name, &text).map(|lines| (name, lines)));
        Ok(Snapshot { sections: sections.collect::<Result<_>>()? })
    }

    /// What differs: "- section: line" for what was, "+ section: line" for what is in `after` only. Lines count: two equal ones are two.
    pub fn diff(&self, after: &Snapshot) -> Vec<String> {
        let empty = Vec::new();
        let mut names: Vec<&String> = self.sections.keys().chain(after.sections.keys()).collect();
        names.sort();
        names.dedup();
        let mut lines = Vec::new();
        for name in names {
            let (old, new) = (self.sections.get(name).unwrap_or(&empty), after.sections.get(name).unwrap_or(&empty));
            lines.extend(surplus(old, new).into_iter().map(|line| format!("- {name}: {line}")));
            lines.extend(surplus(new, old).into_iter().map(|line| format!("+ {name}: {line}")));
        }
        lines
    }

    /// The same without the lines that `is_foreign` names, by section and line.
    pub fn without(&self, is_foreign: impl Fn(&str, &str) -> bool) -> Snapshot {
        let keep = |(name, lines): (&String, &Vec<String>)| {
            let kept = lines.iter().filter(|line| !is_foreign(name, line)).cloned().collect();
            (name.clone(), kept)
        };
        Snapshot { sections: self.sections.iter().map(keep).collect() }
    }

    /// The same without what belongs to single pods: their host interfaces, leases, cached results, port mappings.
    ///
    /// For comparisons over a drain, after which other pods run.
    pub fn without_pods(&self) -> Snapshot {
        self.without(normal::is_of_a_pod)
    }

    /// All lines of a section.
    pub fn section(&self, name: &str) -> &[String] {
        self.sections.get(name).map(Vec::as_slice).unwrap_or_default()
    }
}

impl std::fmt::Display for Snapshot {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        self.sections
            .iter()
            .try_for_each(|(name, lines)| lines.iter().try_for_each(|line| writeln!(out, "{name}: {line}")))
    }
}

/// The lines of `list` beyond those that `other` has too.
fn surplus(list: &[String], other: &[String]) -> Vec<String> {
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    for line in other {
        *counts.entry(line).or_default() += 1;
    }
    let mut surplus = Vec::new();
    for line in list {
        match counts.get_mut(line) {
            Some(count) if *count > 0 => *count -= 1,
            _ => surplus.push(line.clone()),
        }
    }
    surplus
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(lines: &[&str]) -> Snapshot {
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        Snapshot { sections: BTreeMap::from([("routes".to_owned(), lines)]) }
    }

    #[test]
    fn differences_name_the_section_and_count_repeated_lines() {
        let (before, after) = (snapshot(&["a", "b", "b"]), snapshot(&["b", "c"]));
        assert_eq!(before.diff(&after), ["- routes: a", "- routes: b", "+ routes: c"]);
        assert!(before.diff(&before).is_empty());
    }
}
