//! felix's ipsets: made before the rules that use them; members added and removed by restore.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use anyhow::Result;

use crate::agent::family::Family;
use crate::command;

use super::desired::Desired;

/// A set's type and members.
type Sets = BTreeMap<String, (&'static str, BTreeSet<String>)>;

/// The sets that felix wants.
pub fn wanted(desired: &Desired) -> Sets {
    let pools = |wanted: fn(&&crate::calico::ipam::store::Pool) -> bool| -> BTreeSet<String> {
        desired.pools.iter().filter(wanted).map(|pool| pool.cidr.to_string()).collect()
    };
    let external =
        desired.config.external_nodes.iter().filter(|node| node.contains(':') == (desired.family == Family::V6));
    let vxlan = desired.vteps.iter().map(|vtep| vtep.address.clone()).chain(external.cloned());
    let named = |id: &str| name(desired.family, id);
    BTreeMap::from([
        (named("all-hosts-net"), ("hash:net", desired.hosts.iter().cloned().collect())),
        (named("all-vxlan-net"), ("hash:net", vxlan.collect())),
        (named("this-host"), ("hash:ip", desired.own_address.iter().cloned().collect())),
        // A disabled pool is not masqueraded from, but traffic to it is left alone.
        (named("masq-ipam-pools"), ("hash:net", pools(|pool| pool.nat_outgoing && !pool.disabled))),
        (named("all-ipam-pools"), ("hash:net", pools(|_| true))),
    ])
}

/// A set's name: cali40all-ipam-pools, cali60all-ipam-pools.
pub fn name(family: Family, id: &str) -> String {
    format!("cali{}0{id}", family.digit())
}

/// Makes the kernel's sets agree.
pub fn apply(desired: &Desired) -> Result<()> {
    let mut current: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in command::run(&["ipset", "save"])?.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("create"), Some(name), _) => {
                current.entry(name.to_owned()).or_default();
            }
            (Some("add"), Some(name), Some(member)) => {
                current.entry(name.to_owned()).or_default().insert(member.to_owned());
            }
            _ => {}
        }
    }
    let script = script(&wanted(desired), &current, desired.family);
    if script.is_empty() {
        return Ok(());
    }
    command::run_with_input(&["ipset", "restore", "-exist"], &script).map(|_| ())
}

/// The restore script that turns one into the other. Sets of felix's that nobody wants are destroyed last, once no rule can use them.
fn script(wanted: &Sets, current: &BTreeMap<String, BTreeSet<String>>, family: Family) -> String {
    let mut script = String::new();
    let none = BTreeSet::new();
    for (name, (kind, members)) in wanted {
        let found = current.get(name);
        if found.is_none() {
            let _ = writeln!(script, "create {name} {kind} family {} maxelem 1048576", family.kernel());
        }
        let found = found.unwrap_or(&none);
        for member in members.difference(found) {
            let _ = writeln!(script, "add {name} {member}");
        }
        for member in found.difference(members) {
            let _ = writeln!(script, "del {name} {member}");
        }
    }
    script
}
