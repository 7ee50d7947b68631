//! Permanent neighbour entries (ARP, NDP) and forwarding entries of VXLAN devices.

use std::net::IpAddr;

use anyhow::{Context, Result};
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::link::{Indexes, Links, mac_bytes, mac_text};
use super::socket::{Request, Socket};
use crate::facts::{FdbEntry, Neighbour};
use crate::fault;

/// Reads the permanent neighbour entries.
pub fn read(socket: &mut Socket, links: &Links) -> Result<Vec<Neighbour>> {
    let messages = dump(socket, AddressFamily::Unspec).context("could not read the neighbours of this node")?;
    let permanent = messages.iter().filter(|m| is_permanent(m));
    Ok(permanent
        .filter_map(|message| {
            let link = links.name(message.header.ifindex)?.to_owned();
            let (mac, address) = parts(message);
            Some(Neighbour { link, address: address?, mac: mac? })
        })
        .collect())
}

/// Reads the permanent forwarding entries of VXLAN devices that name an outer address.
pub fn read_fdb(socket: &mut Socket, links: &Links) -> Result<Vec<FdbEntry>> {
    let messages = dump(socket, AddressFamily::Bridge).context("could not read the forwarding entries of this node")?;
    let permanent = messages.iter().filter(|m| is_permanent(m));
    let vxlan = |name: &str| links.all().any(|l| l.name == name && l.vxlan.is_some());
    Ok(permanent
        .filter_map(|message| {
            let link = links.name(message.header.ifindex).filter(|name| vxlan(name))?.to_owned();
            let (mac, dst) = parts(message);
            Some(FdbEntry { link, mac: mac?, dst: dst? })
        })
        .collect())
}

/// Sets a permanent neighbour entry.
pub fn replace_neighbour(neighbour: &Neighbour) -> Result<()> {
    change_neighbours(std::slice::from_ref(neighbour), &[])
}

/// Deletes a neighbour entry; nothing happens where it is not there.
pub fn delete_neighbour(neighbour: &Neighbour) -> Result<()> {
    change_neighbours(&[], std::slice::from_ref(neighbour))
}

/// Sets and then deletes neighbour entries, over one socket. The first refusal is the error, but all are tried.
pub fn change_neighbours(set: &[Neighbour], delete: &[Neighbour]) -> Result<()> {
    if set.is_empty() && delete.is_empty() {
        return Ok(());
    }
    fault::point("netlink.change_neighbours");
    let kind = Kind { link: |entry: &Neighbour| &entry.link, build, flags: NLM_F_CREATE | NLM_F_REPLACE };
    kind.change(set, delete).context("could not change neighbour entries")
}

/// Adds a permanent forwarding entry to a VXLAN device, unless it has it.
pub fn append_fdb(entry: &FdbEntry) -> Result<()> {
    change_fdb(std::slice::from_ref(entry), &[])
}

/// Deletes a forwarding entry of a VXLAN device; nothing happens where it is not there.
pub fn delete_fdb(entry: &FdbEntry) -> Result<()> {
    change_fdb(&[], std::slice::from_ref(entry))
}

/// Adds and then deletes forwarding entries of VXLAN devices, over one socket. The first refusal is the error, but all are
/// tried.
pub fn change_fdb(add: &[FdbEntry], delete: &[FdbEntry]) -> Result<()> {
    if add.is_empty() && delete.is_empty() {
        return Ok(());
    }
    fault::point("netlink.change_fdb");
    let kind = Kind { link: |entry: &FdbEntry| &entry.link, build: build_fdb, flags: NLM_F_CREATE | NLM_F_APPEND };
    kind.change(add, delete).context("could not change forwarding entries")
}

/// How entries of one kind are told to the kernel.
struct Kind<T> {
    link: fn(&T) -> &str,
    build: fn(&T, u32) -> Result<NeighbourMessage>,
    /// Of a new entry: whether it stands in another's place or beside it.
    flags: u16,
}

impl<T> Kind<T> {
    /// Adds, then deletes. To add what is there, or to delete what is not, is done already.
    fn change(&self, add: &[T], delete: &[T]) -> Result<()> {
        let (mut socket, mut indexes) = (Socket::open()?, Indexes::default());
        let mut requests: Vec<Request> = Vec::new();
        for entry in add {
            let message = (self.build)(entry, indexes.must(&mut socket, (self.link)(entry))?)?;
            requests.push((RouteNetlinkMessage::NewNeighbour(message), self.flags));
        }
        for entry in delete {
            // Where the device is gone, its entries are.
            if let Some(index) = indexes.find(&mut socket, (self.link)(entry))? {
                requests.push((RouteNetlinkMessage::DelNeighbour((self.build)(entry, index)?), 0));
            }
        }
        for (at, result) in socket.batch(requests)?.into_iter().enumerate() {
            let delete = at >= add.len();
            match result {
                Err(refused) if delete && matches!(refused.errno, Errno::ENOENT | Errno::ENODEV | Errno::ESRCH) => {}
                Err(refused) if !delete && refused.errno == Errno::EEXIST => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// The state is a set of bits: `bridge fdb add` sets NOARP as well, flanneld does not.
fn is_permanent(message: &NeighbourMessage) -> bool {
    u16::from(message.header.state) & u16::from(NeighbourState::Permanent) != 0
}

fn dump(socket: &mut Socket, family: AddressFamily) -> Result<Vec<NeighbourMessage>> {
    let mut request = NeighbourMessage::default();
    request.header.family = family;
    let messages = socket.dump(&RouteNetlinkMessage::GetNeighbour(request))?;
    let mut neighbours = Vec::new();
    for message in messages {
        if let RouteNetlinkMessage::NewNeighbour(neighbour) = message {
            neighbours.push(neighbour);
        }
    }
    Ok(neighbours)
}

fn parts(message: &NeighbourMessage) -> (Option<String>, Option<IpAddr>) {
    let (mut mac, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) if bytes.len() == 6 => mac = Some(mac_text(bytes)),
            NeighbourAttribute::Destination(destination) => address = ip(destination),
            _ => {}
        }
    }
    (mac, address)
}

/// A forwarding entry's outer address comes without its family, which its length tells.
fn ip(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        NeighbourAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        NeighbourAddress::Other(bytes) => {
            let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from)).ok()
        }
        _ => None,
    }
}

fn build(neighbour: &Neighbour, index: u32) -> Result<NeighbourMessage> {
    let mut message = NeighbourMessage::default();
    let v6 = neighbour.address.is_ipv6();
    message.header.family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(neighbour.address.into()),
        NeighbourAttribute::LinkLayerAddress(mac_bytes(&neighbour.mac)?),
    ];
    Ok(message)
}

fn build_fdb(entry: &FdbEntry, index: u32) -> Result<NeighbourMessage> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes = vec![
        NeighbourAttribute::LinkLayerAddress(mac_bytes(&entry.mac)?),
        NeighbourAttribute::Destination(entry.dst.into()),
    ];
    Ok(message)
}
