//! `cluster prepare`: what has to be true of the cluster before its first node can be switched, and which writes make
//! it true. Pure.
//!
//! The order of the writes matters: the overlay's settings and the pool before any block; the labels before the
//! blocks, because Calico's garbage collector leaves the empty blocks of labelled nodes alone; everything that makes
//! a flannel node a peer of Calico's before its prepared annotation says so; flannel's node selector last, when every
//! node has the label that it asks for. On Canal its DaemonSet comes before the overlay's settings and is waited for: a
//! felix of Canal's that sees a pool for VXLAN would make an overlay of its own.

mod addresses;
mod agents;
mod network;
mod nodes;
mod policies;
mod prepared_annotation;
mod selector;
mod webhooks;

pub use agents::canal_beside_calico;
pub use nodes::OVERLAY_ANNOTATIONS;

use super::change::Change;
use super::decision::{Decision, Survey};
use super::facts::ClusterFacts;
use super::fleet;
use super::record::{self, Record};
use super::request::Request;

/// Decides what `prepare` has to do.
pub fn decide(facts: &ClusterFacts, request: &Request) -> Decision {
    let mut survey = Survey::new(facts, request);
    let is_canal = survey.flannel.as_ref().is_some_and(|f| f.canal);
    // Canal's felix enforces them already.
    let policies = if is_canal { Vec::new() } else { policies::beginning(facts) };
    if let Some(flannel) = survey.flannel.clone() {
        survey.checks.push(network::pool_check(&survey, &flannel));
        survey.checks.extend(survey.calico.as_ref().map(|calico| network::owner_check(&survey, &flannel, calico)));
        survey.checks.extend(nodes::checks(&survey, &flannel));
        survey.checks.extend(addresses::checks(&survey));
        survey.checks.push(policies::check(&policies, request.accept_policy_change));
        survey.checks.push(webhooks::check(facts));
    }
    let without =
        "prepare then takes what it finds for what was there before, its own writes among that, and abort leaves them";
    let (known, readable) = record::known(facts.record.as_ref(), without);
    survey.checks.push(readable);
    let mut decision =
        Decision { checks: survey.checks.clone(), notes: policies::notes(&policies), ..Decision::default() };
    let (Some(flannel), Some(calico), false) = (&survey.flannel, &survey.calico, decision.is_refused()) else {
        decision.fleet = fleet::nodes(&survey, &decision.checks, &[]);
        return decision;
    };
    let agents = agents::changes(&survey, flannel);
    if !agents.is_empty() {
        decision.notes.push(agents::note(flannel));
    }
    let settings = network::changes(&survey, flannel, calico).into_iter();
    let labels = nodes::labels(&survey).into_iter();
    let rest = addresses::changes(&survey).into_iter().chain(nodes::annotations(&survey, flannel, calico));
    let mut changes: Vec<Change> = if flannel.canal {
        // Before there is a pool for VXLAN, every felix of Canal's has to know that it is none of its business.
        let gate = agents::gate(&survey, !agents.is_empty());
        let rest = settings.chain(rest).map(|change| change.waiting_for(gate.as_deref()));
        labels.chain(agents).chain(rest).collect()
    } else {
        settings.chain(labels).chain(rest).chain(agents).collect()
    };
    if flannel.network6.is_some() {
        decision.notes.push(
            "Calico's nodes reach IPv6 addresses of claimed blocks alone: those that flannel's pods have now, and those that follow \
             the highest of each node, for its next 256 pods at least. Run prepare again before each batch of a longer roll, and \
             where Jobs have had more pods than that"
                .to_owned(),
        );
    }
    // What abort will put back is written down before anything is changed.
    let record = Record::extended(&survey, known, flannel, calico, &changes);
    changes.splice(0..0, record);
    decision.fleet = fleet::nodes(&survey, &decision.checks, &changes);
    decision.changes = changes;
    decision.pending = nodes::pending(&survey, flannel);
    decision.pending.extend(agents::pending(&survey, flannel));
    decision
}
