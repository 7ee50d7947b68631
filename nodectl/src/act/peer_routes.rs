//! A second copy of the routes to other nodes, in a table of our own that is asked first, while the agents change hands. felix
//! deletes the routes that it finds on its device before it sets its own, and for some milliseconds no node could be reached.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{Context, baseline};
use crate::facts::{Network, Route, RouteKind, Rule};
use crate::host::netlink;
use crate::step::PeerRoutes;

/// RT_TABLE_MAIN.
const MAIN: u32 = 254;
/// How long the new agent is given to set its routes: it says that it is ready before.
const SETTLE: Duration = Duration::from_secs(30);

fn rule(held: &PeerRoutes) -> Rule {
    // RTPROT_STATIC: an administrator's, not an agent's.
    Rule { family: 4, priority: held.priority, table: held.table, proto: 4, ..Rule::default() }
}

/// The table first, then the rule that leads to it.
pub(super) fn hold(held: &PeerRoutes) -> Result<Value> {
    let network = netlink::observe()?;
    let there = |route: &&Route| route.dev.as_deref().is_some_and(|dev| network.link(dev).is_some());
    let routes: Vec<Route> = held.routes.iter().filter(there).cloned().collect();
    netlink::change_routes(&routes, &[])?;
    if !network.rules.contains(&rule(held)) {
        netlink::add_rule(&rule(held))?;
    }
    Ok(json!({ "routes": routes.len() }))
}

/// The rule first, then the table.
pub(super) fn remove(held: &PeerRoutes) -> Result<()> {
    netlink::delete_rules(&[rule(held)])?;
    let ours: Vec<Route> = netlink::observe()?.routes.into_iter().filter(|r| r.table == held.table).collect();
    netlink::change_routes(&[], &ours)
}

/// Removes them once the new agent has its own to every node that answered before the switch. flannel leaves routes to nodes that
/// are gone, and nobody replaces those.
pub(super) fn drop_when_replaced(cx: &Context, held: &PeerRoutes) -> Result<Value> {
    let before = baseline::answered_before(cx);
    let answered =
        |route: &&Route| before.as_ref().is_none_or(|before| route.via.is_some_and(|via| before.peers.contains(&via)));
    let mut lacking = Vec::new();
    let replaced = cx.stop.wait_for(SETTLE, || {
        lacking = without_route(&netlink::observe()?, held);
        Ok((!lacking.iter().any(answered)).then_some(()))
    })?;
    if replaced.is_none() {
        bail!(
            "the new agent has no route to {} after {} s. To fix it: see its log on this node",
            networks(lacking.into_iter().filter(answered)).join(", "),
            SETTLE.as_secs()
        );
    }
    let gone = networks(lacking.into_iter());
    if !gone.is_empty() {
        tracing::warn!("nobody leads to {} any more; those nodes did not answer before either", gone.join(", "));
    }
    remove(held).map(|()| json!({ "not_replaced": gone }))
}

fn networks<'a>(routes: impl Iterator<Item = &'a Route>) -> Vec<String> {
    routes.map(|route| route.dst.to_string()).collect()
}

/// Those to networks that the main table leads to no other node, whole or in part.
fn without_route<'a>(network: &Network, held: &'a PeerRoutes) -> Vec<&'a Route> {
    let leads = |route: &Route| {
        let mut main =
            network.routes.iter().filter(|r| r.table == MAIN && r.kind == RouteKind::Unicast && r.via.is_some());
        main.any(|r| r.dst.prefix_len() > 0 && (r.dst.contains(&route.dst) || route.dst.contains(&r.dst)))
    };
    held.routes.iter().filter(|route| !leads(route)).collect()
}
