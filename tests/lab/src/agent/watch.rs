//! Link events of this network namespace, from rtnetlink: what flanneld and felix subscribe to.

use std::sync::mpsc::Sender;

use anyhow::{Context, Result};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// The multicast group RTNLGRP_LINK, as the bit that bind(2) takes.
const LINK_GROUP: u32 = 1;

/// A link came or changed, or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// RTM_NEWLINK: created, renamed or changed.
    Changed(String),
    /// RTM_DELLINK: deleted or moved to another namespace.
    Deleted(String),
}

/// Starts a thread that turns every link event into `wrap(event)` on the channel.
pub fn link_events<T: Send + 'static>(sender: Sender<T>, wrap: fn(LinkEvent) -> T) -> Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE).context("a netlink socket could not be opened")?;
    socket.bind(&SocketAddr::new(0, LINK_GROUP)).context("link events could not be subscribed to")?;
    std::thread::spawn(move || {
        loop {
            let Ok((bytes, _)) = socket.recv_from_full() else {
                // ENOBUFS: events were lost; the periodic resync of every user covers that.
                std::thread::sleep(std::time::Duration::from_millis(50));
                continue;
            };
            for event in parse(&bytes) {
                if sender.send(wrap(event)).is_err() {
                    return;
                }
            }
        }
    });
    Ok(())
}

/// The link events in one datagram, which may hold several messages.
fn parse(mut bytes: &[u8]) -> Vec<LinkEvent> {
    let mut events = Vec::new();
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) {
        let length = usize::try_from(message.header.length).unwrap_or(bytes.len());
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                events.extend(name(&link).map(LinkEvent::Changed));
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                events.extend(name(&link).map(LinkEvent::Deleted));
            }
            _ => {}
        }
        // Messages are aligned to four bytes.
        let next = length.next_multiple_of(4);
        if length == 0 || next >= bytes.len() {
            break;
        }
        bytes = bytes.get(next..).unwrap_or_default();
    }
    events
}

fn name(link: &LinkMessage) -> Option<String> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}
