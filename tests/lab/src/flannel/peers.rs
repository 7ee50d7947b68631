//! What is programmed for a peer: ARP (or its like in IPv6), FDB, route, in this order, all permanent and all lost with the device.

use crate::agent::family::Family;
use crate::command;

use super::device::Device;
use super::lease::{Lease, Side};
use super::log;

/// Programs a peer, replacing what is there for its subnets. An FDB row of an old MAC stays, as upstream.
pub fn add(devices: &[Device], lease: &Lease) {
    if lease.backend_type != "vxlan" {
        let subnets: Vec<String> = lease.sides.iter().map(|side| side.subnet.to_string()).collect();
        return log(&format!("ignoring non-vxlan Subnet({}): type={}", subnets.join(" "), lease.backend_type));
    }
    for (device, side) in sides(devices, lease) {
        add_side(device, side);
    }
}

/// Takes a peer out: each entry as well as may be.
pub fn remove(devices: &[Device], lease: &Lease) {
    for (device, side) in sides(devices, lease) {
        log(&format!("removing subnet: {} PublicIP: {} VtepMAC: {}", side.subnet, side.public_ip, side.mac));
        let name = device.current_name();
        remove_neighbours(&name, side);
        let (base, subnet) = (side.subnet.network().to_string(), side.subnet.to_string());
        attempt(&["ip", "route", "delete", &subnet, "via", &base, "dev", &name, "onlink"]);
    }
}

/// Each side of a lease with the device of its family.
fn sides<'a>(devices: &'a [Device], lease: &'a Lease) -> impl Iterator<Item = (&'a Device, &'a Side)> {
    let of = |side: &Side| Family::of(side.subnet.addr());
    lease.sides.iter().filter_map(move |side| {
        let device = devices.iter().find(|device| device.family() == of(side))?;
        Some((device, side))
    })
}

fn add_side(device: &Device, side: &Side) {
    log(&format!("adding subnet: {} PublicIP: {} VtepMAC: {}", side.subnet, side.public_ip, side.mac));
    let (base, subnet) = (side.subnet.network().to_string(), side.subnet.to_string());
    let name = device.current_name();
    let name = name.as_str();
    if !attempt(&["ip", "neighbour", "replace", &base, "lladdr", &side.mac, "dev", name, "nud", "permanent"]) {
        return;
    }
    if !attempt(&["bridge", "fdb", "replace", &side.mac, "dev", name, "dst", &side.public_ip, "self", "permanent"]) {
        // One that is half programmed is taken back.
        attempt(&["ip", "neighbour", "delete", &base, "dev", name]);
        return;
    }
    if !attempt(&["ip", "route", "replace", &subnet, "via", &base, "dev", name, "onlink", "proto", "boot"]) {
        remove_neighbours(name, side);
    }
}

fn remove_neighbours(name: &str, side: &Side) {
    let base = side.subnet.network().to_string();
    attempt(&["ip", "neighbour", "delete", &base, "dev", name]);
    attempt(&["bridge", "fdb", "delete", &side.mac, "dev", name, "dst", &side.public_ip, "self"]);
}

/// Runs a command; a failure is logged, and flanneld goes on with the next peer.
fn attempt(argv: &[&str]) -> bool {
    match command::run(argv) {
        Ok(_) => true,
        Err(error) => {
            log(&format!("{error:#}"));
            false
        }
    }
}
