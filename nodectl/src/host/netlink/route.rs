//! Routes.

use std::collections::HashSet;
use std::net::IpAddr;

use anyhow::{Context, Result, anyhow, bail};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
    RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use rtnetlink::RouteMessageBuilder;

use super::link::{Indexes, Links};
use super::socket::{Refused, Request, Socket};
use crate::facts::{Route, RouteKind};
use crate::fault;

/// The local table: the kernel keeps it by itself.
const LOCAL: u32 = 255;

/// The metric that the kernel gives to an IPv6 route that is added without one.
const IPV6_DEFAULT_METRIC: u32 = 1024;

/// Reads the routes of every table but `local`.
pub fn read(socket: &mut Socket, links: &Links) -> Result<Vec<Route>> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let messages =
            socket.dump(&RouteNetlinkMessage::GetRoute(request)).context("could not read the routes of this node")?;
        for message in messages {
            if let RouteNetlinkMessage::NewRoute(route) = message {
                parse(&route, &|index| links.name(index), &mut routes)?;
            }
        }
    }
    Ok(routes)
}

/// Adds a route; an error if there is one of the same destination, table and metric.
pub fn add_route(route: &Route) -> Result<()> {
    fault::point("netlink.add_route");
    one(route, NLM_F_CREATE | NLM_F_EXCL, "add")
}

/// Adds a route, in place of the one of the same destination, table and metric if there is one.
pub fn replace_route(route: &Route) -> Result<()> {
    fault::point("netlink.replace_route");
    one(route, NLM_F_CREATE | NLM_F_REPLACE, "set")
}

/// Deletes a route; nothing happens where there is none like it.
pub fn delete_route(route: &Route) -> Result<()> {
    change_routes(&[], std::slice::from_ref(route))
}

/// Sets routes and then deletes routes, over one socket. The first refusal is the error, but all are tried.
pub fn change_routes(set: &[Route], delete: &[Route]) -> Result<()> {
    if set.is_empty() && delete.is_empty() {
        return Ok(());
    }
    fault::point("netlink.change_routes");
    let (mut socket, mut indexes) = (Socket::open()?, Indexes::default());
    let mut requests: Vec<Request> = Vec::new();
    for route in set {
        let message = build(route, &mut socket, &mut indexes)?;
        requests.push((RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE));
    }
    let set_results = socket.batch(requests)?;
    settle("set", set, set_results, |_| false)?;
    let delete = there(&mut socket, &mut indexes, delete)?;
    let mut requests: Vec<Request> = Vec::new();
    for route in &delete {
        requests.push((RouteNetlinkMessage::DelRoute(build(route, &mut socket, &mut indexes)?), 0));
    }
    fault::point("netlink.change_routes.delete");
    let results = socket.batch(requests)?;
    settle("delete", &delete, results, |refused| gone(refused.errno))
}

fn one(route: &Route, flags: u16, verb: &str) -> Result<()> {
    let (mut socket, mut indexes) = (Socket::open()?, Indexes::default());
    let message = RouteNetlinkMessage::NewRoute(build(route, &mut socket, &mut indexes)?);
    socket.request(message, flags).with_context(|| format!("could not {verb} the route {}", describe(route)))
}

/// Those of the routes that exist exactly so. The kernel takes a deletion without a metric for a deletion with any, and would
/// take another route of the same destination; and a route whose device is gone has gone with it.
fn there(socket: &mut Socket, indexes: &mut Indexes, routes: &[Route]) -> Result<Vec<Route>> {
    let mut wanted: Vec<Route> = Vec::new();
    for route in routes {
        if route.dev.is_none() || indexes.find(socket, route.dev.as_deref().unwrap_or_default())?.is_some() {
            let unset = route.metric == 0 && route.dst.addr().is_ipv6();
            wanted.push(Route { metric: if unset { IPV6_DEFAULT_METRIC } else { route.metric }, ..route.clone() });
        }
    }
    let mut places: Vec<Place> = wanted.iter().map(Place::of).collect();
    places.sort_unstable();
    places.dedup();
    let mut now = HashSet::new();
    for place in places {
        now.extend(place.read(socket, indexes)?);
    }
    wanted.retain(|route| now.contains(route));
    Ok(wanted)
}

/// Where routes are looked for; kernels from 4.20 on answer with those alone, others with all.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    v6: bool,
    table: u32,
    proto: u8,
    dev: Option<String>,
}

impl Place {
    fn of(route: &Route) -> Place {
        Place { v6: route.dst.addr().is_ipv6(), table: route.table, proto: route.proto, dev: route.dev.clone() }
    }

    fn read(&self, socket: &mut Socket, indexes: &mut Indexes) -> Result<Vec<Route>> {
        let mut request = RouteMessage::default();
        request.header.address_family = if self.v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        request.header.protocol = RouteProtocol::from(self.proto);
        request.attributes.push(RouteAttribute::Table(self.table));
        if let Some(dev) = &self.dev {
            request.attributes.push(RouteAttribute::Oif(indexes.must(socket, dev)?));
        }
        let messages = match socket.dump(&RouteNetlinkMessage::GetRoute(request)) {
            // There is no such table.
            Err(e) if super::errno(&e).is_some_and(gone) => return Ok(Vec::new()),
            other => other.context("could not read the routes of this node")?,
        };
        let mut routes = Vec::new();
        for message in messages {
            if let RouteNetlinkMessage::NewRoute(route) = message {
                parse(&route, &|index| indexes.name(index), &mut routes)?;
            }
        }
        Ok(routes)
    }
}

fn gone(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ESRCH | Errno::ENODEV)
}

fn settle(
    verb: &str,
    routes: &[Route],
    results: Vec<Result<(), Refused>>,
    harmless: impl Fn(&Refused) -> bool,
) -> Result<()> {
    for (route, result) in routes.iter().zip(results) {
        match result {
            Err(refused) if !harmless(&refused) => {
                return Err(anyhow!(refused))
                    .with_context(|| format!("could not {verb} the route {}", describe(route)));
            }
            _ => {}
        }
    }
    Ok(())
}

fn describe(route: &Route) -> String {
    let mut text = route.dst.to_string();
    if let Some(via) = route.via {
        text.push_str(&format!(" via {via}"));
    }
    if let Some(dev) = &route.dev {
        text.push_str(&format!(" dev {dev}"));
    }
    format!("{text} table {} metric {}", route.table, route.metric)
}

/// A message with the fields that the kernel takes back: a dumped one also holds what it only tells (DEAD, LINKDOWN,
/// cache information), and is refused with those.
fn build(route: &Route, socket: &mut Socket, indexes: &mut Indexes) -> Result<RouteMessage> {
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(route.dst.addr(), route.dst.prefix_len())
        .with_context(|| format!("the route {} has no valid destination", describe(route)))?
        .table_id(route.table)
        .protocol(RouteProtocol::from(route.proto))
        .scope(RouteScope::from(route.scope))
        .kind(match route.kind {
            RouteKind::Unicast => RouteType::Unicast,
            RouteKind::Blackhole => RouteType::BlackHole,
            RouteKind::Unreachable => RouteType::Unreachable,
            RouteKind::Throw => RouteType::Throw,
            RouteKind::Prohibit => RouteType::Prohibit,
            RouteKind::Other => bail!("the route {} is of a kind that is not ours to change", describe(route)),
        });
    // IPv6 shows its blackholes as routes over `lo` and refuses them in that form.
    if let Some(dev) = route.dev.as_deref().filter(|_| route.kind == RouteKind::Unicast) {
        builder = builder.output_interface(indexes.must(socket, dev)?);
    }
    if let Some(via) = route.via {
        builder = builder.gateway(via).with_context(|| format!("the route {}", describe(route)))?;
    }
    if let Some(source) = route.src {
        builder = builder.pref_source(source).with_context(|| format!("the route {}", describe(route)))?;
    }
    if route.metric != 0 {
        builder = builder.priority(route.metric);
    }
    if route.onlink {
        builder = builder.onlink();
    }
    let mut message = builder.build();
    if let Some(mtu) = route.mtu {
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
    }
    Ok(message)
}

fn parse<'n>(message: &RouteMessage, name: &dyn Fn(u32) -> Option<&'n str>, routes: &mut Vec<Route>) -> Result<()> {
    let header = &message.header;
    let mut route = Route {
        dst: destination(message)?,
        dev: None,
        via: None,
        src: None,
        table: u32::from(header.table),
        proto: header.protocol.into(),
        scope: header.scope.into(),
        kind: kind(header),
        metric: 0,
        onlink: header.flags.contains(RouteFlags::Onlink),
        mtu: None,
    };
    let mut hops: &[RouteNextHop] = &[];
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Oif(index) => route.dev = name(*index).map(str::to_owned),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::PrefSource(address) => route.src = ip(address),
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|m| if let RouteMetric::Mtu(mtu) = m { Some(*mtu) } else { None });
            }
            RouteAttribute::MultiPath(list) => hops = list,
            other => route.via = gateway(other).or(route.via),
        }
    }
    if route.table == LOCAL || header.flags.contains(RouteFlags::Cloned) {
        return Ok(());
    }
    if hops.is_empty() {
        routes.push(route);
        return Ok(());
    }
    // One entry per next hop, so that a change of any is seen.
    for hop in hops {
        let via = hop.attributes.iter().find_map(gateway);
        let onlink = hop.flags.contains(RouteNextHopFlags::Onlink);
        let dev = name(hop.interface_index).map(str::to_owned);
        routes.push(Route { dev, via, onlink, ..route.clone() });
    }
    Ok(())
}

fn destination(message: &RouteMessage) -> Result<IpNet> {
    let found = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    let address = found.unwrap_or(match message.header.address_family {
        AddressFamily::Inet6 => IpAddr::from([0u8; 16]),
        _ => IpAddr::from([0u8; 4]),
    });
    IpNet::new(address, message.header.destination_prefix_length).context("a route has no valid destination")
}

fn kind(header: &RouteHeader) -> RouteKind {
    match header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Throw => RouteKind::Throw,
        RouteType::Prohibit => RouteKind::Prohibit,
        _ => RouteKind::Other,
    }
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}
