//! The overlay's device. Renamed, it keeps address, routes, ARP and FDB, so nothing is ever missing.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::facts::{Network, Route};
use crate::host::netlink::{self, LinkChange};
use crate::step::{Before, OverlayImage};

/// The device with all that hangs on it.
pub fn before(name: &str) -> Result<Before> {
    Ok(Before::Overlay(Box::new(image(&netlink::observe()?, name))))
}

fn image(network: &Network, name: &str) -> OverlayImage {
    let mine = |link: &str| link == name;
    OverlayImage {
        link: network.link(name).cloned(),
        addresses: network.addresses.iter().filter(|a| mine(&a.link) && !link_local(a)).cloned().collect(),
        // The kernel makes its own routes again with the address.
        routes: network.routes.iter().filter(|r| r.dev.as_deref().is_some_and(mine) && r.proto != 2).cloned().collect(),
        neighbours: network.neighbours.iter().filter(|n| mine(&n.link)).cloned().collect(),
        fdb: network.fdb.iter().filter(|f| mine(&f.link)).cloned().collect(),
    }
}

/// fe80:: addresses are the kernel's own business.
fn link_local(address: &crate::facts::Address) -> bool {
    matches!(address.address, ipnet::IpNet::V6(v6) if v6.addr().is_unicast_link_local())
}

/// Renames the device, whether it must go down for that or not; `before` holds what a device that goes down forgets.
pub fn rename(from: &str, to: &str, before: &Before) -> Result<Value> {
    let network = netlink::observe()?;
    if network.link(from).is_none() {
        // Renamed before a crash, or gone with a reboot: the agent that comes makes its own.
        return Ok(json!({ "renamed": network.link(to).is_some() }));
    }
    if network.link(to).is_some() {
        netlink::delete_link(to)?;
    }
    let live = netlink::rename_live_supported()?;
    if live {
        netlink::set_link(from, &LinkChange { rename: Some(to.into()), ..LinkChange::default() })?;
    } else {
        rename_while_down(from, to, before)?;
    }
    Ok(json!({ "renamed": true, "live": live }))
}

/// Before Linux 6.2 a device is renamed only while it is down, and down drops its routes and permanent neighbours.
fn rename_while_down(from: &str, to: &str, before: &Before) -> Result<()> {
    netlink::set_link(from, &LinkChange { down: true, ..LinkChange::default() })?;
    netlink::set_link(from, &LinkChange { rename: Some(to.into()), ..LinkChange::default() })?;
    netlink::set_link(to, &LinkChange { up: true, ..LinkChange::default() })?;
    match before {
        Before::Overlay(image) => fill(&renamed(image, to)),
        _ => Ok(()),
    }
}

pub(super) fn delete(link: &str) -> Result<Value> {
    netlink::delete_link(link)?;
    Ok(Value::Null)
}

/// Makes the device what it was: by name, or anew, with exactly the addresses, routes, neighbours and entries it had.
pub(super) fn undo(name: &str, other: Option<&str>, before: &Before) -> Result<()> {
    let Before::Overlay(image) = before else { return Ok(()) };
    let Some(link) = &image.link else { return Ok(()) };
    let network = netlink::observe()?;
    if network.link(name).is_none() {
        let taken =
            link.vxlan.as_ref().and_then(|v| network.overlay(v.vni, v.port, v.is_ipv6())).map(|l| l.name.clone());
        match (other, taken) {
            (Some(other), _) if network.link(other).is_some() => {
                rename(other, name, &Before::Nothing)?;
            }
            // The agent that came made its own device with this VNI and port; the kernel allows only one.
            (_, Some(taken)) => {
                netlink::delete_link(&taken)?;
            }
            _ => {}
        }
    }
    let network = netlink::observe()?;
    if network.link(name).is_none_or(|l| l.vxlan != link.vxlan || l.mac != link.mac) {
        if network.link(name).is_some() {
            netlink::delete_link(name)?;
        }
        netlink::add_vxlan(link).with_context(|| format!("could not make {name} anew"))?;
    }
    netlink::set_link(name, &LinkChange { up: true, mtu: Some(link.mtu), ..LinkChange::default() })?;
    fill(image)?;
    drop_strangers(image, name)
}

/// Adds what the device is to have; what is there already stays.
fn fill(image: &OverlayImage) -> Result<()> {
    image.addresses.iter().try_for_each(netlink::add_address)?;
    netlink::change_neighbours(&image.neighbours, &[])?;
    netlink::change_fdb(&image.fdb, &[])?;
    netlink::change_routes(&image.routes, &[])
}

/// Takes away what another agent has put on the device meanwhile.
fn drop_strangers(wanted: &OverlayImage, name: &str) -> Result<()> {
    let now = image(&netlink::observe()?, name);
    let keep: BTreeSet<String> = wanted.routes.iter().map(key).collect();
    let strangers: Vec<Route> = now.routes.into_iter().filter(|r| !keep.contains(&key(r))).collect();
    netlink::change_routes(&[], &strangers)?;
    now.addresses.iter().filter(|a| !wanted.addresses.contains(a)).try_for_each(netlink::delete_address)?;
    let neighbours: Vec<_> = now.neighbours.into_iter().filter(|n| !wanted.neighbours.contains(n)).collect();
    let entries: Vec<_> = now.fdb.into_iter().filter(|f| !wanted.fdb.contains(f)).collect();
    netlink::change_neighbours(&[], &neighbours)?;
    netlink::change_fdb(&[], &entries)
}

/// What the kernel tells routes apart by.
fn key(route: &Route) -> String {
    format!("{} {} {}", route.dst, route.table, route.metric)
}

/// The same image under another device name.
fn renamed(image: &OverlayImage, name: &str) -> OverlayImage {
    let mut image = image.clone();
    image.addresses.iter_mut().for_each(|a| a.link = name.to_owned());
    image.neighbours.iter_mut().for_each(|n| n.link = name.to_owned());
    image.fdb.iter_mut().for_each(|f| f.link = name.to_owned());
    image.routes.iter_mut().for_each(|r| r.dev = Some(name.to_owned()));
    image
}
