//! Watching that pods are not cut off while they are re-plumbed: echo requests to them, between them and out of them, from before
//! the first step that could be felt until the node is to be opened again.

use std::net::SocketAddr;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{Context, baseline, in_place};
use crate::host::line::Kind;
use crate::plan::Plan;
use crate::probe::{Expect, Flow, FlowReport, Session};
use crate::step::{AdoptedPod, Step};

/// Questions a second of each flow: a gap of 50 ms shows, and a node full of pods is not kept busy by it.
const RATE: u32 = 20;
/// How many pods are asked from, besides being asked.
const SOURCES: usize = 16;
/// How many gaps the report has.
const TOLD: usize = 40;

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
    // A pod that was deleted meanwhile does not answer, and is not to.
    let gone: Vec<&str> =
        cx.plan.adopted().filter(|pod| !in_place::is_there(cx, pod)).map(|pod| pod.pod.as_str()).collect();
    reports.retain(|report| !gone.contains(&report.from.as_str()) && !gone.contains(&report.to.as_str()));
    let limit = max_ms.map_or(u64::MAX, |ms| ms.saturating_mul(1000));
    let worst = reports.iter().filter(|r| r.answered > 0).max_by_key(|r| r.outage_us);
    match worst.filter(|report| report.outage_us > limit) {
        Some(worst) => bail!(
            "{} -> {} was silent for {} ms, more than the {} ms of --max-outage, {}. To fix it: see what this node was busy with \
             then, or allow more with --max-outage",
            worst.from,
            worst.to,
            worst.outage_us / 1000,
            limit / 1000,
            when(worst, &cx.begun, cx.plan)
        ),
        None => Ok(summary(&reports, &cx.begun, cx.plan)),
    }
}

/// The step that was at work at a time in milliseconds since 1970. `begun`: when each step began.
fn step_at(at_ms: u64, begun: &[(u64, usize)], plan: &Plan) -> Option<String> {
    let n = begun.iter().rev().find(|(began, _)| *began <= at_ms).map(|(_, n)| *n);
    n.and_then(|n| plan.steps.get(n)).map(|step| format!("{} ({})", step.name(), step.title()))
}

/// The steps during which the flow was silent for longest.
fn when(report: &FlowReport, begun: &[(u64, usize)], plan: &Plan) -> String {
    let Some(gap) = report.gaps.iter().max_by_key(|gap| gap.us) else { return "at no time that is known".into() };
    let end = gap.at_ms + gap.us / 1000;
    // The last answer is older than what stopped the next one.
    let begin = report.lost_at_ms.iter().copied().find(|at| (gap.at_ms..=end).contains(at)).unwrap_or(gap.at_ms);
    let step = |at| step_at(at, begun, plan).unwrap_or_else(|| "the time before the first step".into());
    match (step(begin), step(end)) {
        (first, last) if first == last => format!("during {first}"),
        (first, last) => format!("from {first} to {last}"),
    }
}

/// The result for the journal and the report.
fn summary(reports: &[FlowReport], begun: &[(u64, usize)], plan: &Plan) -> Value {
    let (answering, silent): (Vec<&FlowReport>, Vec<&FlowReport>) = reports.iter().partition(|r| r.answered > 0);
    let mut gaps: Vec<(u64, Value)> = Vec::new();
    for report in answering.iter().filter(|r| r.lost > 0) {
        gaps.extend(report.lost_at_ms.iter().map(|at| {
            (*at, json!({ "from": report.from, "to": report.to, "at_ms": at, "step": step_at(*at, begun, plan) }))
        }));
    }
    gaps.sort_by_key(|(at, _)| *at);
    json!({
        "flows": answering.len(),
        "asked": answering.iter().map(|r| r.sent).sum::<u64>(),
        "lost": answering.iter().map(|r| r.lost).sum::<u64>(),
        "longest_gap_ms": answering.iter().map(|r| r.longest_gap_us / 1000).max(),
        "gaps": gaps.into_iter().take(TOLD).map(|(_, gap)| gap).collect::<Vec<Value>>(),
        "never_answered": silent.iter().map(|r| format!("{} -> {}", r.from, r.to)).collect::<Vec<String>>(),
    })
}
