//! Neighbours and FDB entries of vxlan.calico: every permanent one is felix's.

use anyhow::Result;
use serde_json::Value;

use crate::agent::links;
use crate::command;

use super::desired::{DEVICE, Desired};
use super::log;

/// Makes both agree with the other nodes' tunnel ends.
pub fn apply(wanted: &Desired) -> Result<()> {
    let neighbours = links::json(&["ip", "-json", "-4", "neighbour", "show", "dev", DEVICE, "nud", "permanent"])?;
    let wanted_neighbours: Vec<(&str, &str)> =
        wanted.vteps.iter().map(|vtep| (vtep.tunnel.as_str(), vtep.mac.as_str())).collect();
    let found: Vec<(&str, &str)> = neighbours.iter().filter_map(|entry| pair(entry, "dst", "lladdr")).collect();
    for (address, _) in found.iter().filter(|known| !wanted_neighbours.iter().any(|wanted| wanted.0 == known.0)) {
        log(&format!("Deleting neighbour {address} from {DEVICE}"));
        command::run(&["ip", "neighbour", "delete", address, "dev", DEVICE])?;
    }
    for (address, mac) in wanted_neighbours.iter().filter(|wanted| !found.contains(wanted)) {
        command::run(&["ip", "neighbour", "replace", address, "lladdr", mac, "dev", DEVICE, "nud", "permanent"])?;
    }
    forwarding(wanted)
}

fn forwarding(wanted: &Desired) -> Result<()> {
    let entries = links::json(&["bridge", "-json", "fdb", "show", "dev", DEVICE])?;
    let permanent = entries.iter().filter(|entry| entry["state"] == "permanent");
    let found: Vec<(&str, &str)> = permanent.filter_map(|entry| pair(entry, "mac", "dst")).collect();
    let wanted_entries: Vec<(&str, &str)> =
        wanted.vteps.iter().map(|vtep| (vtep.mac.as_str(), vtep.address.as_str())).collect();
    for (mac, destination) in found.iter().filter(|known| !wanted_entries.contains(known)) {
        log(&format!("Deleting FDB entry {mac} dst {destination} from {DEVICE}"));
        command::run(&["bridge", "fdb", "delete", mac, "dev", DEVICE, "dst", destination, "self"])?;
    }
    for (mac, destination) in wanted_entries.iter().filter(|wanted| !found.contains(wanted)) {
        command::run(&["bridge", "fdb", "replace", mac, "dev", DEVICE, "dst", destination, "self", "permanent"])?;
    }
    Ok(())
}

fn pair<'a>(entry: &'a Value, first: &str, second: &str) -> Option<(&'a str, &'a str)> {
    Some((entry[first].as_str()?, entry[second].as_str()?))
}
