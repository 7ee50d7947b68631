//! flannel -> Calico with the pods running. The order is the point; each step's place says why.

use std::net::IpAddr;

use super::{Adoption, BRIDGE, judge_outage, names, peer_routes, stop_others, sweep, watch};
use crate::adopt::PodNetwork;
use crate::adopt::pod::is_default;
use crate::cni::Cni;
use crate::facts::{Facts, Route};
use crate::plan::{parts, to_calico};
use crate::prepared::Prepared;
use crate::request::Request;
use crate::step::{CleanScope, Step};

pub(super) fn steps(facts: &Facts, prepared: &Prepared, request: &Request, adoption: &Adoption) -> Vec<Step> {
    let flannel = parts::agent(facts, prepared, Cni::Flannel, request.agent_timeout_s);
    let calico = parts::agent(facts, prepared, Cni::Calico, request.agent_timeout_s);
    let mut steps = parts::prologue(facts, prepared, Cni::Flannel);
    // Measure, hold: pods that come from here on wait for Calico.
    steps.extend(parts::measure_and_hold(facts, prepared, request));
    steps.extend(watch(adoption));
    steps.push(Step::StopAgent(flannel.clone()));
    steps.extend(to_calico::keep_rules(facts));
    // Before the others leave the bridge: what stays on it would hear them no more.
    steps.push(stop_others(Cni::Flannel, adoption));
    if !adoption.pods.is_empty() {
        steps.push(Step::PrepareBridge { bridge: BRIDGE.into() });
        // Sweep by sweep, not pod by pod: one that has left the bridge is reached by way of the host alone.
        steps.extend(sweep(adoption, Step::GuidePod));
        steps.extend(sweep(adoption, Step::TurnPod));
        steps.extend(sweep(adoption, Step::DetachPod));
    }
    let (hold, release) = peer_routes(facts, &flannel.overlay, &calico.overlay).unzip();
    // felix deletes the routes that it finds before it sets its own.
    steps.extend(hold);
    // felix blackholes every block of its node as soon as it runs, and drops what it does not know: all are where it wants
    // them by now.
    steps.extend(prepared.halves().map(|half| to_calico::overlay_step(facts, prepared, half)));
    steps.push(Step::StartAgent(calico));
    // Calico's plugin and its credentials came with it.
    steps.extend(sweep(adoption, Step::ClaimPod));
    steps.extend(release);
    // A node that is not open yet can be taken back without anybody's sandbox being stopped.
    steps.extend(judge_outage(adoption, request));
    steps.extend(parts::prove_and_release(facts, prepared, request, names(adoption)));
    let scope = CleanScope { keep_bridge: !adoption.pods.is_empty(), ..flannel.scope };
    steps.push(Step::Clean { cni: Cni::Flannel, scope });
    steps.extend(parts::epilogue(facts));
    steps
}

/// What tells it from the routes that flannel's plugin makes.
fn unusual(route: &Route) -> String {
    match (route.table, route.metric) {
        (254, 0) => String::new(),
        (254, metric) => format!(" with metric {metric}"),
        (table, _) => format!(" in table {table}"),
    }
}

/// Why a pod of flannel's cannot be re-plumbed.
pub(super) fn judge(facts: &Facts, network: &PodNetwork) -> Result<(), String> {
    if network.bridge.as_deref() != Some(BRIDGE) {
        return Err(format!("its interface is no port of {BRIDGE}"));
    }
    let own = facts.network.addresses.iter().filter(|a| a.link == BRIDGE);
    let gateways: Vec<IpAddr> = own.map(|a| a.address.addr()).collect();
    let by_gateway = |route: &Route| route.via.is_some_and(|via| gateways.contains(&via)) && route.table == 254;
    let replaceable = |route: &Route| route.dst.prefix_len() > 0 || is_default(route);
    match network.routes.iter().find(|r| !by_gateway(r) || !replaceable(r)) {
        Some(route) => Err(format!("it has a route of its own: {}{}", route.dst, unusual(route))),
        None => Ok(()),
    }
}
