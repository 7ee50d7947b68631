//! Watching that pods are not cut off while they are re-plumbed: echo requests to them, between them and out of them, from before
//! the first step that could be felt until the node is to be opened again.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{Context, baseline, in_place};
use crate::host::line::Kind;
use crate::journal::Timeline;
use crate::probe::{Expect, Flow, FlowReport, Session, is_cut_off, surprise, trace};
use crate::step::{AdoptedPod, Step};

/// Questions a second of each flow: a gap of 50 ms shows, and a node full of pods is not kept busy by it.
const RATE: u32 = 20;
/// How many pods are asked from, besides being asked.
const SOURCES: usize = 16;

/// Begins to ask. A run that is resumed begins anew, and a pod that has gone by then is not asked.
pub(super) fn watch(cx: &mut Context) -> Result<Value> {
    loop {
        let flows = flows(cx);
        match Session::start(flows.clone(), RATE) {
            Ok(session) => cx.continuity = Some(session),
            // A pod was deleted between two looks.
            Err(_) if self::flows(cx) != flows => continue,
            Err(error) => return Err(error),
        }
        return Ok(json!({ "flows": flows.len(), "rate": RATE }));
    }
}

fn flows(cx: &Context) -> Vec<Flow> {
    let pods: Vec<&AdoptedPod> = cx.plan.adopted().filter(|pod| in_place::is_there(cx, pod)).collect();
    let flow = |from: Option<&AdoptedPod>, to: String, ip| Flow {
        from: from.map_or_else(|| "host".to_owned(), |pod| pod.pod.clone()),
        netns: from.map(|pod| cx.host.path(&pod.netns)),
        kind: Kind::Icmp,
        to,
        address: SocketAddr::new(ip, 0),
        expect: Expect::Pass,
    };
    let mut flows = Vec::new();
    for pod in &pods {
        flows.extend(pod.ips.iter().map(|ip| flow(None, pod.pod.clone(), *ip)));
    }
    // One that answered before, where that is known: of a dead one nothing can be seen.
    let answered = baseline::answered_before(cx).unwrap_or_default().peers;
    let peer = cx.plan.steps.iter().find_map(|step| match step {
        Step::Baseline { targets } => targets.peers.iter().find(|p| answered.contains(p)).or(targets.peers.first()),
        _ => None,
    });
    for (n, pod) in pods.iter().take(SOURCES).enumerate() {
        let next = pods[(n + 1) % pods.len()];
        let family = |ip: &&std::net::IpAddr| pod.ips.iter().any(|own| own.is_ipv4() == ip.is_ipv4());
        if next.pod != pod.pod {
            flows.extend(next.ips.iter().filter(family).map(|ip| flow(Some(pod), next.pod.clone(), *ip)));
        }
        flows.extend(peer.filter(family).map(|ip| flow(Some(pod), ip.to_string(), *ip)));
    }
    flows
}

/// Asks no more and says what was lost, and while which step; an error where a pod was silent for longer than it may be.
pub(super) fn judge(cx: &mut Context, max_ms: Option<u64>) -> Result<Value> {
    let Some(session) = cx.continuity.take() else { return Ok(json!({ "note": "nothing was watched" })) };
    let mut reports = session.finish();
    trace(&mut reports, &[Timeline::of(&cx.journal.log()?)]);
    // A pod that was deleted meanwhile does not answer, and is not to.
    let gone: Vec<&str> =
        cx.plan.adopted().filter(|pod| !in_place::is_there(cx, pod)).map(|pod| pod.pod.as_str()).collect();
    reports.retain(|report| !gone.contains(&report.from.as_str()) && !gone.contains(&report.to.as_str()));
    let limit = max_ms.map(Duration::from_millis);
    let cut_off = |report: &&FlowReport| limit.is_some_and(|limit| is_cut_off(report, limit));
    let worst = reports.iter().filter(|r| r.answered > 0).filter(cut_off).max_by_key(|r| r.outage_us);
    let found = summary(&reports);
    if let Some(told) = worst.and_then(|worst| Some(format!("{} {}", worst.name(), surprise(worst, limit)?))) {
        cx.found = found;
        bail!("{told}. To fix it: see what this node was busy with then, or allow more with --max-outage");
    }
    Ok(found)
}

/// The result for the journal and the report.
fn summary(reports: &[FlowReport]) -> Value {
    let (answering, silent): (Vec<&FlowReport>, Vec<&FlowReport>) = reports.iter().partition(|r| r.answered > 0);
    json!({
        "flows": answering.len(),
        "asked": answering.iter().map(|r| r.sent).sum::<u64>(),
        "lost": answering.iter().map(|r| r.lost).sum::<u64>(),
        "longest_gap_ms": answering.iter().map(|r| r.longest_gap_us / 1000).max(),
        "never_answered": silent.iter().map(|r| r.name()).collect::<Vec<String>>(),
        "pairs": reports,
    })
}
