//! What is programmed for a peer: ARP, FDB, route, in this order, all permanent and all lost with the device.

use crate::command;

use super::device::Device;
use super::lease::Lease;
use super::log;

/// Programs a peer, replacing what is there for its subnet. An FDB row of an old MAC stays, as upstream.
pub fn add(device: &Device, lease: &Lease) {
    if lease.backend_type != "vxlan" {
        return log(&format!("ignoring non-vxlan v4Subnet({}): type={}", lease.subnet, lease.backend_type));
    }
    log(&format!("adding subnet: {} PublicIP: {} VtepMAC: {}", lease.subnet, lease.public_ip, lease.mac));
    let (base, subnet) = (lease.subnet.network().to_string(), lease.subnet.to_string());
    let name = device.current_name();
    let name = name.as_str();
    if !attempt(&["ip", "neighbour", "replace", &base, "lladdr", &lease.mac, "dev", name, "nud", "permanent"]) {
        return;
    }
    if !attempt(&["bridge", "fdb", "replace", &lease.mac, "dev", name, "dst", &lease.public_ip, "self", "permanent"]) {
        // One that is half programmed is taken back.
        attempt(&["ip", "neighbour", "delete", &base, "dev", name]);
        return;
    }
    if !attempt(&["ip", "route", "replace", &subnet, "via", &base, "dev", name, "onlink", "proto", "boot"]) {
        remove_neighbours(name, lease);
    }
}

/// Takes a peer out: each entry as well as may be.
pub fn remove(device: &Device, lease: &Lease) {
    log(&format!("removing subnet: {} PublicIP: {} VtepMAC: {}", lease.subnet, lease.public_ip, lease.mac));
    let name = device.current_name();
    remove_neighbours(&name, lease);
    let (base, subnet) = (lease.subnet.network().to_string(), lease.subnet.to_string());
    attempt(&["ip", "route", "delete", &subnet, "via", &base, "dev", &name, "onlink"]);
}

fn remove_neighbours(name: &str, lease: &Lease) {
    let base = lease.subnet.network().to_string();
    attempt(&["ip", "neighbour", "delete", &base, "dev", name]);
    attempt(&["bridge", "fdb", "delete", &lease.mac, "dev", name, "dst", &lease.public_ip, "self"]);
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
