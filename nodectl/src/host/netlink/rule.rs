//! Policy rules.

use anyhow::{Context, Result};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::socket::Socket;
use crate::facts::Rule;
use crate::fault;

/// Reads the policy rules.
pub fn read(socket: &mut Socket) -> Result<Vec<Rule>> {
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

/// Deletes policy rules, over one socket; nothing happens where there is none like one of them.
pub fn delete_rules(rules: &[Rule]) -> Result<()> {
    if rules.is_empty() {
        return Ok(());
    }
    fault::point("netlink.delete_rules");
    let requests = rules.iter().map(|rule| (RouteNetlinkMessage::DelRule(build_rule(rule)), 0)).collect();
    let refused = Socket::open()?.batch(requests)?.into_iter().filter_map(Result::err);
    match refused.into_iter().find(|refused| !matches!(refused.errno, Errno::ENOENT | Errno::ESRCH)) {
        Some(refused) => Err(anyhow::Error::from(refused).context("could not delete the policy rules")),
        None => Ok(()),
    }
}

fn parse_rule(message: &RuleMessage, family: u8) -> Rule {
    let mut rule = Rule { family, table: u32::from(message.header.table), ..Rule::default() };
    let header = &message.header;
    rule.invert = header.flags.contains(RuleFlags::Invert);
    rule.selective = header.src_len > 0 || header.dst_len > 0 || header.tos > 0 || header.action != RuleAction::ToTable;
    let (mut mark, mut mask) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = Some(*value),
            RuleAttribute::Protocol(protocol) => rule.proto = (*protocol).into(),
            // The kernel shows these two, unset, for every rule.
            RuleAttribute::SuppressPrefixLen(u32::MAX) | RuleAttribute::SuppressIfGroup(u32::MAX) => {}
            _ => rule.selective = true,
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
    if rule.invert {
        message.header.flags = RuleFlags::Invert;
    }
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
