//! Watching that pods are not cut off while they are re-plumbed: echo requests to them, between them and out of them, from before
//! the first step that could be felt until the node is to be opened again.

mod kept;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{Context, baseline, in_place};
use crate::clock;
use crate::host::answerer::Answerer;
use crate::host::files;
use crate::host::line::Kind;
use crate::host::ping;
use crate::journal::Timeline;
use crate::probe::{Expect, Flow, FlowReport, Session, Wanted, is_cut_off, open, surprise, trace};
use crate::step::{AdoptedPod, Step};
use kept::Kept;

/// Questions a second of each flow: a gap of 50 ms shows, and a node full of pods is not kept busy by it.
const RATE: u32 = 20;
/// How many pods are asked from, besides being asked.
const SOURCES: usize = 16;
/// Where most questions come from.
const HOST: &str = "host";
/// How long a pod may take to answer again when all is done.
const LAST_ANSWER: Duration = Duration::from_secs(5);
/// A pod that has not answered for so long is silent, in milliseconds.
const SILENT_MS: u64 = 1000;
/// How long the flows that were named and must pass have to be answered once, before anything is changed: a connection takes two
/// tries of a second.
const ANSWER: Duration = Duration::from_secs(5);

/// Flows that are being asked.
pub struct Watch {
    session: Kept,
    /// Those that were named; they come first.
    named: Vec<Wanted>,
    /// What answers in pods for them.
    _echoes: Vec<Answerer>,
}

/// Begins to ask. A run that is resumed goes on with what it had counted; a pod that has gone by then is not asked.
pub(super) fn watch(cx: &mut Context, named: &[Wanted]) -> Result<Value> {
    let is_first = !cx.journal.log()?.is_done(cx.at);
    let watch = begin(cx, named)?;
    let silent = || {
        let flows = watch.session.reports().into_iter().take(watch.named.len());
        flows.filter(|flow| flow.expect == Expect::Pass && flow.answered == 0).collect::<Vec<FlowReport>>()
    };
    if is_first && cx.stop.wait_for(ANSWER, || Ok(silent().is_empty().then_some(())))?.is_none() {
        let names: Vec<String> = silent()
            .iter()
            .map(|flow| format!("{} {}", flow.name(), surprise(flow, None).unwrap_or_default()))
            .collect();
        bail!(
            "what must pass does not, before anything was changed: {}. To fix it: see why, or do not ask for it with --probe-to",
            names.join("; ")
        );
    }
    let asked = watch.session.reports().len();
    let not_asked: Vec<String> = named.iter().filter(|flow| !watch.named.contains(flow)).map(Wanted::name).collect();
    cx.continuity = Some(watch);
    let mut result = json!({ "flows": asked, "rate": RATE });
    if !not_asked.is_empty() {
        result["not_asked"] = json!(not_asked);
    }
    Ok(result)
}

fn begin(cx: &Context, named: &[Wanted]) -> Result<Watch> {
    let present = || named.iter().filter(|flow| has_ends(cx, flow)).cloned().collect::<Vec<Wanted>>();
    loop {
        let (named, own) = (present(), flows(cx));
        let begun = open(cx.host, &named).and_then(|(flows, echoes)| {
            let session = Session::start(flows.into_iter().chain(own.clone()).collect(), RATE)?;
            let session = Kept::start(session, &cx.run.backup);
            Ok(Watch { session, named: named.clone(), _echoes: echoes })
        });
        match begun {
            // A pod was deleted between two looks.
            Err(_) if present() != named || flows(cx) != own => {}
            begun => return begun,
        }
    }
}

/// Whether the pods at both ends of a flow that was named are there still.
fn has_ends(cx: &Context, flow: &Wanted) -> bool {
    flow.netns().all(|netns| files::exists(&cx.host.path(netns)))
}

fn flows(cx: &Context) -> Vec<Flow> {
    let pods: Vec<&AdoptedPod> = cx.plan.adopted().filter(|pod| in_place::is_there(cx, pod)).collect();
    let flow = |from: Option<&AdoptedPod>, to: String, ip| Flow {
        from: from.map_or_else(|| HOST.to_owned(), |pod| pod.pod.clone()),
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

/// Asks no more and says what was lost, and while which step; an error where a pod, or what was named and must pass, was silent for
/// longer than it may be.
pub(super) fn judge(cx: &mut Context, max_ms: Option<u64>) -> Result<Value> {
    let Some(watch) = cx.continuity.take() else { return Ok(json!({ "note": "nothing was watched" })) };
    // One that was slow for a moment is given its time, and a silence is seen to its end: how long it is, is not known before.
    let now = clock::unix_milliseconds();
    cx.stop.wait_for(LAST_ANSWER, || {
        let mut named = watch.session.reports();
        let own = of_living(cx, named.split_off(watch.named.len()));
        let must_pass = |report: &&FlowReport| report.expect == Expect::Pass;
        let waits = !silent(&own, now).is_empty() || named.iter().filter(must_pass).any(|flow| is_silent(flow, now));
        Ok((!waits).then_some(()))
    })?;
    let asked_until = clock::unix_milliseconds();
    let (named, own) = end(cx, watch)?;
    let of_late = asked_until.saturating_sub(SILENT_MS);
    let cut: Vec<String> = silent(&own, of_late).into_iter().filter(|flow| is_cut(flow)).map(since).collect();
    let limit = max_ms.map(Duration::from_millis);
    let told = |report: &FlowReport| Some(format!("{} {}", report.name(), surprise(report, limit)?));
    let must_answer = named.iter().chain(own.iter().filter(|report| report.answered > 0));
    let worst = must_answer.filter(|r| limit.is_some_and(|limit| is_cut_off(r, limit))).max_by_key(|r| r.outage_us);
    let too_long = worst.and_then(told);
    let surprises: Vec<String> = named.iter().filter_map(told).collect();
    let found = summary(named.iter().chain(&own).collect(), &surprises);
    let why = match too_long {
        _ if !cut.is_empty() => {
            format!("{}. To fix it: see where its packets are lost, with tcpdump on its interface", cut.join("; "))
        }
        Some(told) => {
            format!("{told}. To fix it: see what this node was busy with then, or allow more with --max-outage")
        }
        None => return Ok(found),
    };
    cx.found = found;
    bail!(why)
}

/// A pod that was deleted meanwhile does not answer, and is not to.
fn of_living(cx: &Context, mut reports: Vec<FlowReport>) -> Vec<FlowReport> {
    let gone: Vec<&str> =
        cx.plan.adopted().filter(|pod| !in_place::is_there(cx, pod)).map(|pod| pod.pod.as_str()).collect();
    reports.retain(|report| !gone.contains(&report.from.as_str()) && !gone.contains(&report.to.as_str()));
    reports
}

/// Pods that have answered this host, and not since then. Others a network policy may keep apart, which begins to be enforced
/// with the new CNI; felix lets the own host through to its pods.
fn silent(own: &[FlowReport], since_ms: u64) -> Vec<&FlowReport> {
    own.iter().filter(|report| report.from == HOST && is_silent(report, since_ms)).collect()
}

fn is_silent(flow: &FlowReport, since_ms: u64) -> bool {
    flow.answers.as_ref().is_some_and(|answers| answers.last_ms < since_ms)
}

/// Once more, by nobody who asked before.
fn is_cut(flow: &FlowReport) -> bool {
    let replies = ping::ping(&[flow.address.ip()], 3, Duration::from_millis(500)).unwrap_or_default();
    replies.iter().all(|reply| reply.received == 0)
}

/// Since when, in words.
fn since(report: &FlowReport) -> String {
    let gap = report.gaps.iter().max_by_key(|gap| gap.at_ms + gap.us / 1000);
    let during = gap.map(|gap| gap.during.to_string()).unwrap_or_default();
    format!("{} has answered before and does not any more{during}", report.to)
}

/// Ends the asking: what was named, and the pods' own flows, without those of pods that have gone.
fn end(cx: &Context, watch: Watch) -> Result<(Vec<FlowReport>, Vec<FlowReport>)> {
    let mut named = watch.session.finish();
    trace(&mut named, &[Timeline::of(&cx.journal.log()?)]);
    let own = of_living(cx, named.split_off(watch.named.len()));
    let mut there = watch.named.iter().map(|flow| has_ends(cx, flow));
    named.retain(|_| there.next().unwrap_or(true));
    Ok((named, own))
}

/// Goes on asking, or begins again, where a run is taken back that had begun to. Nothing of this stops a way back.
pub fn watch_back(cx: &mut Context) -> Result<()> {
    let standing = cx.journal.log()?.standing();
    let watching = cx.plan.steps.iter().enumerate().find_map(|(n, step)| match step {
        Step::WatchPods { flows } if standing.contains(&n) => Some(flows),
        _ => None,
    });
    if let Some(named) = watching
        && cx.continuity.is_none()
    {
        match begin(cx, named) {
            Ok(watch) => cx.continuity = Some(watch).filter(|watch| !watch.session.reports().is_empty()),
            Err(error) => tracing::warn!("what the way back costs the pods is not watched: {error:#}"),
        }
    }
    Ok(())
}

/// All that could be felt is taken back: what was lost on the way goes into the journal and the report.
pub(super) fn undo(cx: &mut Context) -> Result<()> {
    if let Some(watch) = cx.continuity.take() {
        let (named, own) = end(cx, watch)?;
        let told = |report: &FlowReport| Some(format!("{} {}", report.name(), surprise(report, None)?));
        let surprises: Vec<String> = named.iter().filter_map(told).collect();
        cx.found = summary(named.iter().chain(&own).collect(), &surprises);
    }
    Ok(())
}

/// The result for the journal and the report. What must be refused and is lost is no loss.
fn summary(reports: Vec<&FlowReport>, surprises: &[String]) -> Value {
    let pass = reports.iter().filter(|report| report.expect == Expect::Pass);
    let (answering, silent): (Vec<&FlowReport>, Vec<&FlowReport>) = pass.partition(|r| r.answered > 0);
    json!({
        "flows": answering.len(),
        "asked": answering.iter().map(|r| r.sent).sum::<u64>(),
        "lost": answering.iter().map(|r| r.lost).sum::<u64>(),
        "longest_gap_ms": answering.iter().map(|r| r.longest_gap_us / 1000).max(),
        "never_answered": silent.iter().map(|r| r.name()).collect::<Vec<String>>(),
        "surprises": surprises,
        "pairs": reports,
    })
}
