//! Traffic control at the clsact hooks, and XDP programs.

use anyhow::{Context, Result};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached};
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};
use nix::errno::Errno;
use rtnetlink::LinkUnspec;

use super::link::{Indexes, Links};
use super::socket::{Refused, Request, Socket};
use crate::facts::TcFilter;
use crate::fault;

/// The qdisc whose hooks these are.
const CLSACT: &str = "clsact";
/// XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE and XDP_FLAGS_HW_MODE of linux/if_link.h.
const XDP_MODES: [u32; 3] = [2, 4, 8];

/// What hangs on the clsact hooks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Devices with a clsact qdisc.
    pub clsact: Vec<String>,
    /// The filters on them.
    pub filters: Vec<TcFilter>,
}

/// Reads what hangs on the clsact hooks of all devices.
pub fn traffic() -> Result<Traffic> {
    let mut socket = Socket::open()?;
    let links = Links::read(&mut socket)?;
    let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    let answers = socket.dump(&request).context("could not read the queueing disciplines of this node")?;
    let mut traffic = Traffic::default();
    for answer in answers {
        let RouteNetlinkMessage::NewQueueDiscipline(qdisc) = answer else { continue };
        let Some(link) = name_of(&links, &qdisc).filter(|_| kind(&qdisc) == CLSACT) else { continue };
        for egress in [false, true] {
            let mut request = TcMessage::with_index(qdisc.header.index);
            request.header.parent = hook(egress);
            let answers = socket
                .dump(&RouteNetlinkMessage::GetTrafficFilter(request))
                .with_context(|| format!("could not read the traffic filters of {link}"))?;
            traffic.filters.extend(answers.iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewTrafficFilter(filter) => parse(link, egress, filter),
                _ => None,
            }));
        }
        traffic.clsact.push(link.to_owned());
    }
    Ok(traffic)
}

/// Deletes filters, and then the clsact qdiscs of devices; what is not there is passed over.
pub fn delete_traffic(filters: &[TcFilter], clsact: &[String]) -> Result<()> {
    if filters.is_empty() && clsact.is_empty() {
        return Ok(());
    }
    fault::point("netlink.delete_traffic");
    let (mut socket, mut indexes) = (Socket::open()?, Indexes::default());
    let mut requests: Vec<Request> = Vec::new();
    for filter in filters {
        let Some(index) = indexes.find(&mut socket, &filter.link)? else { continue };
        let mut message = message(index, hook(filter.egress), &filter.kind);
        message.header.handle = TcHandle::from(filter.handle);
        message.header.info = u32::from(filter.priority) << 16 | u32::from(filter.protocol);
        requests.push((RouteNetlinkMessage::DelTrafficFilter(message), 0));
    }
    for link in clsact {
        let Some(index) = indexes.find(&mut socket, link)? else { continue };
        let mut message = message(index, TcHandle::CLSACT, CLSACT);
        message.header.handle = TcHandle { major: u16::MAX, minor: 0 };
        requests.push((RouteNetlinkMessage::DelQueueDiscipline(message), 0));
    }
    let gone = |refused: &Refused| matches!(refused.errno, Errno::ENOENT | Errno::ENODEV | Errno::EINVAL);
    match socket.batch(requests)?.into_iter().filter_map(Result::err).find(|refused| !gone(refused)) {
        Some(refused) => Err(refused).context("could not delete traffic filters"),
        None => Ok(()),
    }
}

/// Takes the XDP programs off devices, in whatever mode they are attached.
pub fn detach_xdp(links: &[String]) -> Result<()> {
    if links.is_empty() {
        return Ok(());
    }
    fault::point("netlink.detach_xdp");
    let (mut socket, mut indexes) = (Socket::open()?, Indexes::default());
    for link in links {
        let Some(index) = indexes.find(&mut socket, link)? else { continue };
        // A mode in which nothing is attached, or that the driver lacks, is refused or passed over.
        let requests = XDP_MODES.iter().map(|mode| {
            let mut message = LinkUnspec::new_with_index(index).build();
            message.attributes.push(LinkAttribute::Xdp(vec![LinkXdp::Fd(-1), LinkXdp::Flags(*mode)]));
            (RouteNetlinkMessage::SetLink(message), 0)
        });
        let _ = socket.batch(requests.collect())?;
    }
    let left = Links::read(&mut socket)?;
    match left.all().find(|link| link.xdp && links.contains(&link.name)) {
        Some(link) => anyhow::bail!(
            "the XDP program of {0} could not be taken off. To fix it: see with `ip link show {0}` what holds it",
            link.name
        ),
        None => Ok(()),
    }
}

/// Whether a link's message says that a program is attached.
pub(super) fn has_xdp(message: &LinkMessage) -> bool {
    let attached = |xdp: &LinkXdp| matches!(xdp, LinkXdp::Attached(mode) if *mode != XdpAttached::None);
    message.attributes.iter().any(|a| matches!(a, LinkAttribute::Xdp(parts) if parts.iter().any(attached)))
}

fn hook(egress: bool) -> TcHandle {
    let minor = if egress { TcHandle::MIN_EGRESS } else { TcHandle::MIN_INGRESS };
    TcHandle { major: u16::MAX, minor }
}

fn message(index: u32, parent: TcHandle, kind: &str) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = parent;
    message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    message
}

fn name_of<'l>(links: &'l Links, message: &TcMessage) -> Option<&'l str> {
    links.name(message.header.index.cast_unsigned())
}

fn kind(message: &TcMessage) -> &str {
    let kind = message.attributes.iter().find_map(|a| match a {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    });
    kind.unwrap_or_default()
}

/// A filter; the kernel also lists each priority once by itself, without a handle.
fn parse(link: &str, egress: bool, message: &TcMessage) -> Option<TcFilter> {
    let handle = u32::from(message.header.handle);
    if handle == 0 {
        return None;
    }
    let options = message.attributes.iter().filter_map(|a| match a {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    let name = options.flatten().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name.clone()),
        _ => None,
    });
    Some(TcFilter {
        link: link.to_owned(),
        egress,
        kind: kind(message).to_owned(),
        name: name.unwrap_or_default(),
        priority: (message.header.info >> 16) as u16,
        protocol: (message.header.info & 0xffff) as u16,
        handle,
    })
}
