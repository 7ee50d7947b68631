//! Neighbours and FDB entries of the tunnel device: every permanent one is felix's.

use anyhow::Result;
use serde_json::Value;

use crate::agent::links;
use crate::command;

use super::desired::{Desired, device_name};
use super::log;

/// Makes both agree with the other nodes' tunnel ends.
pub fn apply(wanted: &Desired) -> Result<()> {
    let (device, option) = (device_name(wanted.family), wanted.family.option());
    let neighbours = links::json(&["ip", "-json", option, "neighbour", "show", "dev", device, "nud", "permanent"])?;
    let wanted_neighbours: Vec<(&str, &str)> =
        wanted.vteps.iter().map(|vtep| (vtep.tunnel.as_str(), vtep.mac.as_str())).collect();
    let found: Vec<(&str, &str)> = neighbours.iter().filter_map(|entry| pair(entry, "dst", "lladdr")).collect();
    for (address, _) in found.iter().filter(|known| !wanted_neighbours.iter().any(|wanted| wanted.0 == known.0)) {
        log(&format!("Deleting neighbour {address} from {device}"));
        command::run(&["ip", "neighbour", "delete", address, "dev", device])?;
    }
    for (address, mac) in wanted_neighbours.iter().filter(|wanted| !found.contains(wanted)) {
        command::run(&["ip", "neighbour", "replace", address, "lladdr", mac, "dev", device, "nud", "permanent"])?;
    }
    forwarding(wanted)
}

fn forwarding(wanted: &Desired) -> Result<()> {
    let device = device_name(wanted.family);
    let entries = links::json(&["bridge", "-json", "fdb", "show", "dev", device])?;
    let permanent = entries.iter().filter(|entry| entry["state"] == "permanent");
    let found: Vec<(&str, &str)> = permanent.filter_map(|entry| pair(entry, "mac", "dst")).collect();
    let wanted_entries: Vec<(&str, &str)> =
        wanted.vteps.iter().map(|vtep| (vtep.mac.as_str(), vtep.address.as_str())).collect();
    for (mac, destination) in found.iter().filter(|known| !wanted_entries.contains(known)) {
        log(&format!("Deleting FDB entry {mac} dst {destination} from {device}"));
        command::run(&["bridge", "fdb", "delete", mac, "dev", device, "dst", destination, "self"])?;
    }
    for (mac, destination) in wanted_entries.iter().filter(|wanted| !found.contains(wanted)) {
        command::run(&["bridge", "fdb", "replace", mac, "dev", device, "dst", destination, "self", "permanent"])?;
    }
    Ok(())
}

fn pair<'a>(entry: &'a Value, first: &str, second: &str) -> Option<(&'a str, &'a str)> {
    Some((entry[first].as_str()?, entry[second].as_str()?))
}
