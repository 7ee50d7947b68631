//! Making links.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, bail};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan};

use super::link::{Indexes, mac_bytes};
use super::socket::Socket;
use crate::facts::Link;
use crate::fault;

/// A veth pair to make.
#[derive(Debug, Clone, Default)]
pub struct VethPair<'a> {
    /// Name of the end that stays here.
    pub name: &'a str,
    /// Its MAC; the kernel chooses one where none is given.
    pub mac: Option<&'a str>,
    /// Name of the other end.
    pub peer: &'a str,
    /// MAC of the other end.
    pub peer_mac: Option<&'a str>,
    /// Path of the network namespace of the other end.
    pub peer_netns: Option<&'a std::path::Path>,
    /// MTU of both ends.
    pub mtu: Option<u32>,
}

/// Makes a VXLAN device as `link` describes it.
pub fn add_vxlan(link: &Link) -> Result<()> {
    let Some(vxlan) = &link.vxlan else { bail!("{} is no VXLAN device", link.name) };
    fault::point("netlink.add_vxlan");
    let mut socket = Socket::open()?;
    let mut builder = LinkVxlan::new(&link.name, vxlan.vni).port(vxlan.port).learning(vxlan.learning);
    if let Some(parent) = &vxlan.parent {
        builder = builder.dev(Indexes::default().must(&mut socket, parent)?);
    }
    builder = match vxlan.local {
        Some(IpAddr::V4(local)) => builder.local(local),
        Some(IpAddr::V6(local)) => builder.local6(local),
        None => builder,
    };
    if vxlan.gbp {
        builder = builder.gbp();
    }
    add(&mut socket, common(builder, link)?, &link.name)
}

/// Makes a bridge as `link` describes it. A MAC that is given is pinned; without one it would follow its ports' MACs.
pub fn add_bridge(link: &Link) -> Result<()> {
    fault::point("netlink.add_bridge");
    add(&mut Socket::open()?, common(LinkBridge::new(&link.name), link)?, &link.name)
}

/// Makes a link that can be made from its description: a VXLAN device or a bridge.
pub fn add_link(link: &Link) -> Result<()> {
    match link.kind.as_str() {
        "vxlan" => add_vxlan(link),
        "bridge" => add_bridge(link),
        kind => bail!("a network device of kind {kind:?} ({}) cannot be made anew", link.name),
    }
}

/// Makes a veth pair, both ends down.
pub fn add_veth(pair: &VethPair<'_>) -> Result<()> {
    fault::point("netlink.add_veth");
    let netns = pair
        .peer_netns
        .map(|path| std::fs::File::open(path).with_context(|| format!("could not open {}", path.display())))
        .transpose()?;
    let mut peer = LinkMessageBuilder::<LinkUnspec>::default().name(pair.peer.to_owned());
    let mut builder = LinkVeth::new(pair.name, pair.peer);
    if let Some(mtu) = pair.mtu {
        (peer, builder) = (peer.mtu(mtu), builder.mtu(mtu));
    }
    if let Some(mac) = pair.mac {
        builder = builder.address(mac_bytes(mac)?);
    }
    if let Some(mac) = pair.peer_mac {
        peer = peer.address(mac_bytes(mac)?);
    }
    if let Some(file) = &netns {
        peer = peer.setns_by_fd(file.as_fd().as_raw_fd());
    }
    builder = builder.set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
    add(&mut Socket::open()?, builder, pair.name)
}

fn add<T>(socket: &mut Socket, builder: LinkMessageBuilder<T>, name: &str) -> Result<()> {
    let message = RouteNetlinkMessage::NewLink(builder.build());
    socket
        .request(message, NLM_F_CREATE | NLM_F_EXCL)
        .with_context(|| format!("could not make the network device {name}"))
}

fn common<T>(mut builder: LinkMessageBuilder<T>, link: &Link) -> Result<LinkMessageBuilder<T>> {
    if !link.mac.is_empty() {
        builder = builder.address(mac_bytes(&link.mac)?);
    }
    if link.mtu != 0 {
        builder = builder.mtu(link.mtu);
    }
    Ok(if link.up { builder.up() } else { builder })
}
