//! Addresses.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::link::{Indexes, Links};
use super::socket::Socket;
use crate::facts::Address;
use crate::fault;

/// Reads every address.
pub fn read(socket: &mut Socket, links: &Links) -> Result<Vec<Address>> {
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let messages = socket.dump(&request).context("could not read the addresses of this node")?;
    let mut addresses = Vec::new();
    for message in messages {
        let RouteNetlinkMessage::NewAddress(message) = message else { continue };
        let (Some(link), Some(address)) = (links.name(message.header.index), address_of(&message)) else { continue };
        addresses.push(Address { link: link.to_owned(), address });
    }
    Ok(addresses)
}

/// Adds an address, unless the device has it.
pub fn add_address(address: &Address) -> Result<()> {
    fault::point("netlink.add_address");
    let mut socket = Socket::open()?;
    let index = Indexes::default().must(&mut socket, &address.link)?;
    let mut message = build(address, index);
    if let IpNet::V4(net) = address.address {
        // As the bridge plugin and `ip address add ... brd +` do; there is none on a /31 or /32.
        if net.prefix_len() < 31 {
            message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
        }
    } else {
        // Without duplicate address detection, which takes a second in which the address is of no use.
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    socket
        .request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
        .with_context(|| format!("could not add the address {} to {}", address.address, address.link))
}

/// Gives an IPv6 address that the device has its prefix's route, or takes that route away and keeps the address: IPv6 refuses
/// the same address twice, with whatever prefix length.
pub fn set_prefix_route(address: &Address, on: bool) -> Result<()> {
    fault::point("netlink.set_prefix_route");
    let mut socket = Socket::open()?;
    let index = Indexes::default().must(&mut socket, &address.link)?;
    let mut message = build(address, index);
    let flags = if on { AddressFlags::Nodad } else { AddressFlags::Nodad | AddressFlags::Noprefixroute };
    message.attributes.push(AddressAttribute::Flags(flags));
    let verb = if on { "give" } else { "take" };
    socket
        .request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
        .with_context(|| format!("could not {verb} the prefix route of {} on {}", address.address, address.link))
}

/// Deletes an address; nothing happens where it is not there.
pub fn delete_address(address: &Address) -> Result<()> {
    fault::point("netlink.delete_address");
    let mut socket = Socket::open()?;
    let Some(index) = Indexes::default().find(&mut socket, &address.link)? else { return Ok(()) };
    match socket.request(RouteNetlinkMessage::DelAddress(build(address, index)), 0) {
        Err(e) if matches!(super::errno(&e), Some(Errno::EADDRNOTAVAIL | Errno::ENODEV)) => Ok(()),
        other => other.with_context(|| format!("could not delete the address {} of {}", address.address, address.link)),
    }
}

fn build(address: &Address, index: u32) -> AddressMessage {
    let ip = address.address.addr();
    let mut message = AddressMessage::default();
    message.header.family = if ip.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.prefix_len = address.address.prefix_len();
    message.header.index = index;
    message.header.scope = scope(ip);
    // IPv4 calls the own address LOCAL and the far end of a point-to-point link ADDRESS; IPv6 has one.
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    message
}

fn scope(ip: IpAddr) -> AddressScope {
    match ip {
        IpAddr::V4(ip) if ip.octets()[0] == Ipv4Addr::LOCALHOST.octets()[0] => AddressScope::Host,
        IpAddr::V6(ip) if ip.is_loopback() => AddressScope::Host,
        IpAddr::V6(ip) if ip.is_unicast_link_local() => AddressScope::Link,
        _ => AddressScope::Universe,
    }
}

fn address_of(message: &AddressMessage) -> Option<IpNet> {
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            _ => {}
        }
    }
    IpNet::new(local.or(address)?, message.header.prefix_len).ok()
}
