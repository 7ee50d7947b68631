//! Routes and policy rules.

use std::net::IpAddr;

use anyhow::{Context, Result, anyhow, bail};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
    RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use rtnetlink::RouteMessageBuilder;

use super::link::Links;
use super::socket::{Refused, Request, Socket};
use crate::facts::{Route, RouteKind, Rule};
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
                parse(&route, links, &mut routes)?;
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
    let mut socket = Socket::open()?;
    let links = Links::read(&mut socket)?;
    let mut requests: Vec<Request> = Vec::new();
    for route in set {
        let message = build(route, &links)?;
        requests.push((RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE));
    }
    let set_results = socket.batch(requests)?;
    settle("set", set, set_results, |_| false)?;
    let delete = there(&mut socket, &links, delete)?;
    let mut requests: Vec<Request> = Vec::new();
    for route in &delete {
        requests.push((RouteNetlinkMessage::DelRoute(build(route, &links)?), 0));
    }
    fault::point("netlink.change_routes.delete");
    let results = socket.batch(requests)?;
    settle("delete", &delete, results, |refused| gone(refused.errno))
}

/// Reads the policy rules.
pub fn read_rules(socket: &mut Socket) -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for (family, number) in [(AddressFamily::Inet, 4), (AddressFamily::Inet6, 6)] {
        let mut request = RuleMessage::default();
        request.header.family = family;
        let messages = socket
            .dump(&RouteNetlinkMessage::GetRule(request))
            .context("could not read the policy rules of this node")?;
        for message in messages {
            if let RouteNetlinkMessage::NewRule(rule) = message {
                rules.push(parse_rule(&rule, number));
            }
        }
    }
    Ok(rules)
}

/// Adds a policy rule that sends marked packets to a table.
pub fn add_rule(rule: &Rule) -> Result<()> {
    fault::point("netlink.add_rule");
    let message = RouteNetlinkMessage::NewRule(build_rule(rule));
    Socket::open()?
        .request(message, NLM_F_CREATE | NLM_F_EXCL)
        .with_context(|| format!("could not add the policy rule {rule:?}"))
}

/// Deletes a policy rule; nothing happens where there is none like it.
pub fn delete_rule(rule: &Rule) -> Result<()> {
    fault::point("netlink.delete_rule");
    match Socket::open()?.request(RouteNetlinkMessage::DelRule(build_rule(rule)), 0) {
        Err(e) if super::errno(&e).is_some_and(gone) => Ok(()),
        other => other.with_context(|| format!("could not delete the policy rule {rule:?}")),
    }
}

fn one(route: &Route, flags: u16, verb: &str) -> Result<()> {
    let mut socket = Socket::open()?;
    let links = Links::read(&mut socket)?;
    let message = RouteNetlinkMessage::NewRoute(build(route, &links)?);
    socket.request(message, flags).with_context(|| format!("could not {verb} the route {}", describe(route)))
}

/// Those of the routes that exist exactly so. The kernel takes a deletion without a metric for a deletion with any, and would
/// take another route of the same destination; and a route whose device is gone has gone with it.
fn there(socket: &mut Socket, links: &Links, routes: &[Route]) -> Result<Vec<Route>> {
    if routes.is_empty() {
        return Ok(Vec::new());
    }
    let now = read(socket, links)?;
    let same = |wanted: &Route| {
        let mut wanted = wanted.clone();
        if wanted.metric == 0 && wanted.dst.addr().is_ipv6() {
            wanted.metric = IPV6_DEFAULT_METRIC;
        }
        now.contains(&wanted)
    };
    Ok(routes.iter().filter(|route| same(route)).cloned().collect())
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
fn build(route: &Route, links: &Links) -> Result<RouteMessage> {
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
        builder = builder.output_interface(links.must(dev)?);
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

fn parse(message: &RouteMessage, links: &Links, routes: &mut Vec<Route>) -> Result<()> {
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
            RouteAttribute::Oif(index) => route.dev = links.name(*index).map(str::to_owned),
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
        let dev = links.name(hop.interface_index).map(str::to_owned);
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

fn parse_rule(message: &RuleMessage, family: u8) -> Rule {
    let mut rule = Rule { family, table: u32::from(message.header.table), ..Rule::default() };
    let (mut mark, mut mask) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = Some(*value),
            RuleAttribute::Protocol(protocol) => rule.proto = (*protocol).into(),
            _ => {}
        }
    }
    rule.fwmark = match (mark, mask) {
        (None, None) => None,
        (mark, mask) => Some((mark.unwrap_or(0), mask.unwrap_or(u32::MAX))),
    };
    rule
}

fn build_rule(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if rule.family == 6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Protocol(RouteProtocol::from(rule.proto)),
    ];
    if let Some((mark, mask)) = rule.fwmark {
        message.attributes.push(RuleAttribute::FwMark(mark));
        message.attributes.push(RuleAttribute::FwMask(mask));
    }
    message
}
