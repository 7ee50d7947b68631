//! Links.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use anyhow::{Context, Result, anyhow};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoPortData, InfoPortKind, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags,
    LinkInfo, LinkMessage, State,
};
use nix::errno::Errno;
use rtnetlink::LinkUnspec;
use serde::{Deserialize, Serialize};

use super::new_link::{VethPair, add_veth};
use super::socket::{Refused, Request, Socket};
use crate::facts::{Link, Vxlan};
use crate::fault;

/// Length of a device's name with its zero byte.
const IFNAMSIZ: usize = 16;

/// What to change about a link: one message, in which the kernel stops at the first refusal, and one more for `hairpin`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkChange {
    /// Set it up.
    pub up: bool,
    /// Set it down.
    pub down: bool,
    /// Give it this name.
    pub rename: Option<String>,
    /// Give it this MAC.
    pub mac: Option<String>,
    /// Give it this MTU.
    pub mtu: Option<u32>,
    /// Make it a port of this bridge.
    pub master: Option<String>,
    /// Take it out of its bridge.
    pub nomaster: bool,
    /// As a bridge port: send frames back out of the port they came from.
    pub hairpin: Option<bool>,
}

/// Indexes of links by name, asked for one by one and remembered.
///
/// By RTM_GETLINK, which only looks. An ioctl, and with it if_nametoindex, loads the module `netdev-NAME` for a name that is
/// not there (dev_load in net/core/dev_ioctl.c): asking for `tunl0` in that way brings ipip back.
#[derive(Default)]
pub struct Indexes {
    known: HashMap<String, Option<u32>>,
    names: HashMap<u32, String>,
}

/// Every link of the namespace, by index and by name.
pub struct Links {
    list: Vec<(u32, Link)>,
    places: HashMap<u32, usize>,
    groups: Vec<u32>,
}

impl Indexes {
    /// The index of the link of this name.
    pub fn find(&mut self, socket: &mut Socket, name: &str) -> Result<Option<u32>> {
        if let Some(known) = self.known.get(name) {
            return Ok(*known);
        }
        let found = look_up(socket, name).with_context(|| format!("could not look for the network device {name}"))?;
        self.known.insert(name.to_owned(), found);
        if let Some(index) = found {
            self.names.insert(index, name.to_owned());
        }
        Ok(found)
    }

    /// The index of the link of this name; an error where there is none.
    pub fn must(&mut self, socket: &mut Socket, name: &str) -> Result<u32> {
        self.find(socket, name)?.ok_or_else(|| anyhow!("there is no network device {name}"))
    }

    /// The name, among those asked for, of the link with this index.
    pub fn name(&self, index: u32) -> Option<&str> {
        self.names.get(&index).map(String::as_str)
    }
}

fn look_up(socket: &mut Socket, name: &str) -> Result<Option<u32>> {
    // The kernel refuses longer ones, and there can be none.
    if name.len() >= IFNAMSIZ {
        return Ok(None);
    }
    let mut request = LinkMessage::default();
    request.attributes =
        vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    match socket.get(RouteNetlinkMessage::GetLink(request)) {
        // The kernel also finds links by their alternative names.
        Ok(RouteNetlinkMessage::NewLink(link)) if name_of(&link) == Some(name) => Ok(Some(link.header.index)),
        Ok(_) => Ok(None),
        Err(e) if errno(&e) == Some(Errno::ENODEV) => Ok(None),
        Err(e) => Err(e),
    }
}

impl Links {
    /// Reads them, in one full dump.
    pub fn read(socket: &mut Socket) -> Result<Links> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let messages =
            socket.dump(&RouteNetlinkMessage::GetLink(request)).context("could not read the links of this node")?;
        let mut raw = Vec::new();
        for message in messages {
            if let RouteNetlinkMessage::NewLink(link) = message {
                raw.push(link);
            }
        }
        let names: BTreeMap<u32, String> =
            raw.iter().filter_map(|m| Some((m.header.index, name_of(m)?.to_owned()))).collect();
        let groups = raw.iter().filter_map(|m| {
            find(m, |a| match a {
                LinkAttribute::Group(g) => Some(*g),
                _ => None,
            })
        });
        let places = raw.iter().enumerate().map(|(place, m)| (m.header.index, place)).collect();
        let list = raw.iter().map(|m| (m.header.index, parse(m, &names))).collect();
        Ok(Links { list, places, groups: groups.collect() })
    }

    /// The links by index.
    pub fn indexed(self) -> BTreeMap<u32, Link> {
        self.list.into_iter().collect()
    }

    /// The links, in the kernel's order.
    pub fn all(&self) -> impl Iterator<Item = &Link> {
        self.list.iter().map(|(_, link)| link)
    }

    /// The name of the link with this index.
    pub fn name(&self, index: u32) -> Option<&str> {
        self.places.get(&index).and_then(|place| self.list.get(*place)).map(|(_, link)| link.name.as_str())
    }
}

/// Changes a link.
pub fn set_link(name: &str, change: &LinkChange) -> Result<()> {
    fault::point(change.point());
    let mut socket = Socket::open()?;
    let mut indexes = Indexes::default();
    let index = indexes.must(&mut socket, name)?;
    let message = change.message(index, &mut socket, &mut indexes)?;
    socket.request(RouteNetlinkMessage::SetLink(message), 0).with_context(|| change.describe(name))?;
    let Some(on) = change.hairpin else { return Ok(()) };
    // The kernel takes a port's options in RTM_NEWLINK alone, and only once it is a port.
    let options = InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(on)]);
    let message = LinkUnspec::new_with_index(index).set_port_kind(InfoPortKind::Bridge).set_port_data(options).build();
    socket.request(RouteNetlinkMessage::NewLink(message), 0).with_context(|| change.describe(name))
}

/// Deletes a link; true if there was one.
pub fn delete_link(name: &str) -> Result<bool> {
    fault::point("netlink.delete_link");
    let mut socket = Socket::open()?;
    let Some(index) = Indexes::default().find(&mut socket, name)? else { return Ok(false) };
    let message = LinkUnspec::new_with_index(index).build();
    match socket.request(RouteNetlinkMessage::DelLink(message), 0) {
        Ok(()) => Ok(true),
        Err(e) if errno(&e) == Some(Errno::ENODEV) => Ok(false),
        Err(e) => Err(e).with_context(|| format!("could not delete the network device {name}")),
    }
}

/// Deletes many links in one transaction, which takes about as long as one: each deletion by itself waits for the kernel's
/// grace periods (some 27 ms), a group waits for them once. Names that are not there are passed over.
pub fn delete_links(names: &[impl AsRef<str>]) -> Result<()> {
    let mut socket = Socket::open()?;
    let links = Links::read(&mut socket)?;
    let by_name: HashMap<&str, u32> = links.list.iter().map(|(index, link)| (link.name.as_str(), *index)).collect();
    let indexes: Vec<u32> = names.iter().filter_map(|name| by_name.get(name.as_ref()).copied()).collect();
    match indexes.as_slice() {
        [] => return Ok(()),
        [only] => return delete_link(links.name(*only).unwrap_or_default()).map(|_| ()),
        _ => {}
    }
    fault::point("netlink.delete_links");
    // A number that no device has: the kernel deletes whatever is in the group.
    let group = (0x6e6f_6465u32..).find(|g| !links.groups.contains(g)).unwrap_or(u32::MAX);
    let into = |group: u32| -> Vec<Request> {
        let move_one = |index: &u32| LinkUnspec::new_with_index(*index).link_group(group).build();
        indexes.iter().map(|i| (RouteNetlinkMessage::SetLink(move_one(i)), 0)).collect()
    };
    let moved = socket.batch(into(group))?;
    // A device that went away meanwhile is as good as deleted.
    let failed = moved.into_iter().filter_map(Result::err).find(|e| e.errno != Errno::ENODEV);
    fault::point("netlink.delete_links.group");
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::Group(group));
    let deleted = match failed {
        Some(refused) => Err(anyhow::Error::from(refused)),
        None => socket.request(RouteNetlinkMessage::DelLink(message), 0),
    };
    match deleted {
        Err(e) if errno(&e) != Some(Errno::ENODEV) => {
            let _ = socket.batch(into(0));
            Err(e).with_context(|| format!("could not delete {} network devices", indexes.len()))
        }
        _ => Ok(()),
    }
}

/// Whether this bridge port sends frames back out of the port they came from; `None` where it is no bridge port.
pub fn hairpin(name: &str) -> Result<Option<bool>> {
    let mut socket = Socket::open()?;
    let messages = socket.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    Ok(messages.iter().find_map(|message| match message {
        RouteNetlinkMessage::NewLink(link) if name_of(link) == Some(name) => port_hairpin(link),
        _ => None,
    }))
}

/// Whether this kernel renames a link that is up (6.2 and later do), found out on a throw-away device in a throw-away network
/// namespace, so that nobody here sees it.
pub fn rename_live_supported() -> Result<bool> {
    if fault::renames_while_down() {
        return Ok(false);
    }
    let probe = std::thread::spawn(|| -> Result<bool> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .context("could not make a network namespace to try a rename in")?;
        add_veth(&VethPair { name: "nodectl-a", peer: "nodectl-b", ..VethPair::default() })?;
        set_link("nodectl-a", &LinkChange { up: true, ..LinkChange::default() })?;
        match set_link("nodectl-a", &LinkChange { rename: Some("nodectl-c".into()), ..LinkChange::default() }) {
            Ok(()) => Ok(true),
            Err(e) if errno(&e) == Some(Errno::EBUSY) => Ok(false),
            Err(e) => Err(e),
        }
    });
    probe.join().map_err(|_| anyhow!("the thread that tried a rename was lost"))?
}

impl LinkChange {
    fn message(&self, index: u32, socket: &mut Socket, indexes: &mut Indexes) -> Result<LinkMessage> {
        let mut builder = LinkUnspec::new_with_index(index);
        if self.up {
            builder = builder.up();
        }
        if self.down {
            builder = builder.down();
        }
        if let Some(name) = &self.rename {
            builder = builder.name(name.clone());
        }
        if let Some(mac) = &self.mac {
            builder = builder.address(mac_bytes(mac)?);
        }
        if let Some(mtu) = self.mtu {
            builder = builder.mtu(mtu);
        }
        if let Some(master) = &self.master {
            builder = builder.controller(indexes.must(socket, master)?);
        }
        if self.nomaster {
            builder = builder.nocontroller();
        }
        Ok(builder.build())
    }

    fn point(&self) -> &'static str {
        if self.rename.is_some() { "netlink.rename_link" } else { "netlink.set_link" }
    }

    fn describe(&self, name: &str) -> String {
        match &self.rename {
            Some(to) => format!("could not rename the network device {name} to {to}"),
            None => format!("could not change the network device {name} ({self:?})"),
        }
    }
}

/// The kernel's error code in an error of this module.
pub fn errno(error: &anyhow::Error) -> Option<Errno> {
    error.downcast_ref::<Refused>().map(|refused| refused.errno)
}

/// The bytes of a MAC address.
pub fn mac_bytes(text: &str) -> Result<Vec<u8>> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2)).collect();
    bytes.filter(|b| b.len() == 6).ok_or_else(|| anyhow!("{text:?} is no MAC address"))
}

/// A MAC address as text.
pub fn mac_text(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
}

fn find<T>(message: &LinkMessage, pick: impl Fn(&LinkAttribute) -> Option<T>) -> Option<T> {
    message.attributes.iter().find_map(pick)
}

fn name_of(message: &LinkMessage) -> Option<&str> {
    message.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn infos(message: &LinkMessage) -> &[LinkInfo] {
    message
        .attributes
        .iter()
        .find_map(|a| match a {
            LinkAttribute::LinkInfo(infos) => Some(infos.as_slice()),
            _ => None,
        })
        .unwrap_or_default()
}

fn parse(message: &LinkMessage, names: &BTreeMap<u32, String>) -> Link {
    let mut link = Link { name: name_of(message).unwrap_or_default().to_owned(), ..Link::default() };
    link.up = message.header.flags.contains(LinkFlags::Up);
    let (mut peer, mut elsewhere) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            // Loopback has six zeroes, a tunnel its outer address in four bytes.
            LinkAttribute::Address(bytes) if bytes.len() == 6 => link.mac = mac_text(bytes),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::OperState(state) => link.running = matches!(state, State::Up | State::Unknown),
            LinkAttribute::Controller(index) => link.master = names.get(index).cloned(),
            LinkAttribute::Link(index) => peer = Some(*index),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            _ => {}
        }
    }
    for info in infos(message) {
        match info {
            LinkInfo::Kind(kind) => link.kind = kind.to_string(),
            LinkInfo::Data(InfoData::Vxlan(data)) => link.vxlan = Some(vxlan(data, names)),
            _ => {}
        }
    }
    link.peer_index = peer.filter(|_| elsewhere && link.kind == "veth");
    link.xdp = super::traffic::has_xdp(message);
    link
}

fn vxlan(data: &[InfoVxlan], names: &BTreeMap<u32, String>) -> Vxlan {
    let mut vxlan = Vxlan::default();
    for info in data {
        match info {
            InfoVxlan::Id(vni) => vxlan.vni = *vni,
            InfoVxlan::Port(port) => vxlan.port = *port,
            InfoVxlan::Local(local) if !local.is_unspecified() => vxlan.local = Some(IpAddr::V4(*local)),
            InfoVxlan::Local6(local) if !local.is_unspecified() => vxlan.local = Some(IpAddr::V6(*local)),
            InfoVxlan::Link(index) => vxlan.parent = names.get(index).cloned(),
            InfoVxlan::Learning(learning) => vxlan.learning = *learning,
            InfoVxlan::Gbp => vxlan.gbp = true,
            _ => {}
        }
    }
    vxlan
}

fn port_hairpin(message: &LinkMessage) -> Option<bool> {
    infos(message).iter().find_map(|info| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(data)) => data.iter().find_map(|d| match d {
            InfoBridgePort::HairpinMode(on) => Some(*on),
            _ => None,
        }),
        _ => None,
    })
}
