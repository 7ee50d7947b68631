//! ipsets.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, Result};

use super::run::{self, Run};
use crate::fault;

/// Time given to the tool; felix keeps sets with tens of thousands of entries.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Names of all sets of this network namespace; none where the tool is not installed and the kernel's part is not there.
pub fn names() -> Result<Vec<String>> {
    if !run::installed("ipset") && !super::kmod::present("ip_set") {
        return Ok(Vec::new());
    }
    let text =
        Run::new("ipset").args(["list", "-name"]).timeout(TIMEOUT).text().context("could not list the ipsets")?;
    let mut names: Vec<String> = text.lines().map(str::to_owned).collect();
    names.sort_unstable();
    Ok(names)
}

/// The sets with their entries, as input for [`restore`].
pub fn save(names: &[impl AsRef<str>]) -> Result<String> {
    if names.is_empty() {
        return Ok(String::new());
    }
    let text = Run::new("ipset").args(["save"]).timeout(TIMEOUT).text().context("could not read the ipsets")?;
    let names: HashSet<&str> = names.iter().map(AsRef::as_ref).collect();
    let wanted = |line: &&str| line.split_whitespace().nth(1).is_some_and(|name| names.contains(name));
    Ok(text.lines().filter(wanted).map(|line| format!("{line}\n")).collect())
}

/// Creates sets and adds entries; what is there already stays.
pub fn restore(text: &str) -> Result<()> {
    fault::point("ipset.restore");
    Run::new("ipset")
        .args(["-exist", "restore"])
        .stdin(text)
        .timeout(TIMEOUT)
        .text()
        .context("could not restore ipsets")?;
    Ok(())
}

/// Destroys sets, all in one call; those that are not there are passed over. The kernel refuses a set that a rule or another
/// set still uses, and those after it stay then.
pub fn destroy(names: &[impl AsRef<str>]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let names: HashSet<&str> = names.iter().map(AsRef::as_ref).collect();
    let there: Vec<String> = self::names()?.into_iter().filter(|name| names.contains(name.as_str())).collect();
    if there.is_empty() {
        return Ok(());
    }
    fault::point("ipset.destroy");
    // A set of sets holds its members: it goes first.
    let saved = save(&there)?;
    let created = saved.lines().filter_map(|line| line.strip_prefix("create ")?.split_once(' '));
    let sets_of_sets: HashSet<&str> =
        created.filter(|(_, kind)| kind.starts_with("list:set ")).map(|(name, _)| name).collect();
    let (lists, plain): (Vec<_>, Vec<_>) = there.into_iter().partition(|name| sets_of_sets.contains(name.as_str()));
    let batch: String = lists.iter().chain(&plain).map(|name| format!("destroy {name}\n")).collect();
    Run::new("ipset").args(["restore"]).stdin(batch).timeout(TIMEOUT).text().context(
        "could not destroy ipsets. To fix it: take out the rule that still uses one of them (`iptables-save | grep -- -set`)",
    )?;
    Ok(())
}
