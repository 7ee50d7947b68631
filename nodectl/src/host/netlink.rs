//! Links, addresses, routes, rules, neighbours and forwarding entries, over a blocking netlink socket.
//!
//! rtnetlink's builders and netlink-packet-route's types stay inside: they change with every release, and the facts must not.
//! Everything acts in the network namespace of the calling thread. All functions may be repeated: what is there already, or
//! gone already, is no error.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::facts::{Link, Network};

mod address;
mod link;
mod neighbour;
mod new_link;
mod route;
mod rule;
mod socket;
mod traffic;

pub use address::{add_address, delete_address, set_prefix_route};
pub use link::{LinkChange, delete_link, delete_links, errno, hairpin, rename_live_supported, set_link};
pub use neighbour::{append_fdb, change_fdb, change_neighbours, delete_fdb, delete_neighbour, replace_neighbour};
pub use new_link::{VethPair, add_bridge, add_link, add_veth, add_vxlan};
pub use route::{add_route, change_routes, delete_route, replace_route};
pub use rule::{add_rule, delete_rules};
pub use socket::Refused;
pub use traffic::{Traffic, delete_traffic, detach_xdp, traffic};

/// Reads the links alone, by one full dump.
pub fn links() -> Result<Vec<Link>> {
    Ok(link::Links::read(&mut socket::Socket::open()?)?.all().cloned().collect())
}

/// Reads the links alone, by index: the other end of a veth is named by that.
pub fn indexed_links() -> Result<BTreeMap<u32, Link>> {
    Ok(link::Links::read(&mut socket::Socket::open()?)?.indexed())
}

/// Reads everything.
pub fn observe() -> Result<Network> {
    let mut socket = socket::Socket::open()?;
    let links = link::Links::read(&mut socket)?;
    Ok(Network {
        addresses: address::read(&mut socket, &links)?,
        routes: route::read(&mut socket, &links)?,
        rules: rule::read(&mut socket)?,
        neighbours: neighbour::read(&mut socket, &links)?,
        fdb: neighbour::read_fdb(&mut socket, &links)?,
        links: links.all().cloned().collect(),
    })
}
