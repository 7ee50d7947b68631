//! `nodectl probe`: numbered questions from this host and from pods, for a while; loss, gaps and round trips of each pair.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::settings::Settings;
use crate::cli::ProbeArgs;
use crate::clock;
use crate::facts::{Facts, Sandbox};
use crate::failure::{Failure, code};
use crate::host::Host;
use crate::host::answerer::Answerer;
use crate::host::line::Kind;
use crate::journal::Timeline;
use crate::observe;
use crate::ownership::attachments;
use crate::probe::target::{self, Target};
use crate::probe::{Expect, Flow, Session, surprise, trace};
use crate::report;
use crate::run::Folders;
use crate::stop::Stop;

/// Without --to: the way to every other node, and out.
const USUAL: [&str; 2] = ["peers", "gateway"];

pub(super) fn run(host: &Host, args: &ProbeArgs, settings: &Settings) -> Result<u8> {
    let stop = Stop::listen(None)?;
    let facts = observe::node(host);
    let (flows, _answerers) = flows(host, &facts, args)?;
    if flows.is_empty() {
        return Err(refused(nothing_to_probe(args)).into());
    }
    let began_ms = clock::unix_milliseconds();
    let session = Session::start(flows, args.rate)?;
    // Ctrl-C ends the probe early and is no failure: what was seen until then is the result.
    let _ = stop.pause(Duration::from_secs(args.duration));
    let mut reports = session.finish();
    let (runs, timelines) = runs_since(host, began_ms)?;
    trace(&mut reports, &timelines);
    let limit = args.max_outage.map(Duration::from_millis);
    let surprises: Vec<String> =
        reports.iter().filter_map(|r| Some(format!("{} {}", r.name(), surprise(r, limit)?))).collect();
    let outcome = if surprises.is_empty() { "as-expected" } else { "surprises" };
    let document =
        json!({ "outcome": outcome, "rate": args.rate, "flows": reports, "surprises": surprises, "runs": runs });
    report::result(settings.output, &report::probe_text(&reports, &surprises, &runs), &document, false)?;
    Ok(if surprises.is_empty() { code::DONE } else { code::FAILED })
}

fn nothing_to_probe(args: &ProbeArgs) -> String {
    let why = match args.to.is_empty() && args.refuse.is_empty() {
        true => "this node has no peers and no gateway. To fix it: name a target with --to",
        false => {
            "what was named has no address, or is the pod that asks, and a pod and itself say nothing about the network. To fix \
             it: name another source with --from, or another target"
        }
    };
    format!("there is nothing to probe: {why}")
}

/// The runs of this node that were at work since then, and the times of their steps.
fn runs_since(host: &Host, began_ms: u64) -> Result<(Vec<String>, Vec<Timeline>)> {
    let mut found = Vec::new();
    for (run, log) in Folders::at(host).runs()? {
        match log {
            Ok(log) => found.push((run, Timeline::of(&log))),
            Err(error) => tracing::warn!("the steps of run {run} are not known: {error:#}"),
        }
    }
    let now = clock::unix_milliseconds();
    Ok(found.into_iter().filter(|(_, steps)| steps.is_within(began_ms, now)).unzip())
}

/// Every source to every target; and the echoes in pods that some of them need.
fn flows(host: &Host, facts: &Facts, args: &ProbeArgs) -> Result<(Vec<Flow>, Vec<Answerer>)> {
    let mut answerers = Vec::new();
    let sources = sources(host, facts, &args.from)?;
    if let Some(port) = args.answer {
        for (_, netns) in &sources {
            answerers.push(Answerer::start(netns.as_deref(), port)?);
        }
    }
    let usual: Vec<String> = USUAL.map(str::to_owned).to_vec();
    let named = !args.to.is_empty() || !args.refuse.is_empty();
    let pass = if named { &args.to } else { &usual };
    let mut flows = Vec::new();
    for (texts, expect) in [(pass, Expect::Pass), (&args.refuse, Expect::Refuse)] {
        for text in texts {
            let target = Target::parse(text).map_err(Failure::Usage)?;
            for (kind, to, address) in resolve(host, facts, &target, &mut answerers)? {
                flows.extend(sources.iter().map(|(from, netns)| Flow {
                    from: from.clone(),
                    netns: netns.clone(),
                    kind,
                    to: to.clone(),
                    address,
                    expect,
                }));
            }
        }
    }
    // A pod and itself say nothing about the network.
    flows.retain(|flow| flow.from != flow.to.rsplit_once(':').map_or(flow.to.as_str(), |(name, _)| name));
    Ok((flows, answerers))
}

/// Where probes start: `host`, `all`, or pods.
fn sources(host: &Host, facts: &Facts, names: &[String]) -> Result<Vec<(String, Option<PathBuf>)>> {
    let this = ("host".to_owned(), None);
    if names.is_empty() {
        return Ok(vec![this]);
    }
    let mut sources = Vec::new();
    for name in names {
        match name.as_str() {
            "host" => sources.push(this.clone()),
            "all" => {
                sources.push(this.clone());
                for pod in attachments::live(facts) {
                    sources.push((pod.full_name(), Some(netns_of(host, pod)?)));
                }
            }
            name => sources.push((name.to_owned(), Some(netns_of(host, pod(facts, name)?)?))),
        }
    }
    sources.dedup();
    Ok(sources)
}

/// A target's questions: how, to whom for people, where to.
fn resolve(
    host: &Host,
    facts: &Facts,
    target: &Target,
    answerers: &mut Vec<Answerer>,
) -> Result<Vec<(Kind, String, SocketAddr)>> {
    let echo = |ip: IpAddr| (Kind::Icmp, ip.to_string(), SocketAddr::new(ip, 0));
    Ok(match target {
        Target::Peers => target::peers(facts).into_iter().map(echo).collect(),
        Target::Gateway => target::gateways(facts).into_iter().map(echo).collect(),
        Target::Address(Kind::Icmp, address) => vec![echo(address.ip())],
        Target::Address(kind, address) => vec![(*kind, address.to_string(), *address)],
        Target::Pod(kind, name, port) => {
            let pod = pod(facts, name)?;
            let ip = pod.ip.ok_or_else(|| refused(format!("the pod {name} has no address")))?;
            let port = match (kind, port) {
                (Kind::Icmp, _) => return Ok(vec![(*kind, name.clone(), SocketAddr::new(ip, 0))]),
                (_, Some(port)) => *port,
                (_, None) => {
                    let answerer = Answerer::start(Some(&netns_of(host, pod)?), 0)?;
                    answerers.push(answerer);
                    answerers.last().map_or(0, Answerer::port)
                }
            };
            vec![(*kind, format!("{name}:{port}"), SocketAddr::new(ip, port))]
        }
    })
}

fn pod<'a>(facts: &'a Facts, name: &str) -> Result<&'a Sandbox> {
    let found = attachments::live(facts).find(|s| s.full_name() == name);
    found.ok_or_else(|| {
        let known: Vec<String> = attachments::live(facts).map(Sandbox::full_name).collect();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        refused(format!("no pod {name} with a network of its own runs here. To fix it: name one of these: {known}"))
            .into()
    })
}

fn netns_of(host: &Host, pod: &Sandbox) -> Result<PathBuf> {
    let netns = pod.netns.as_ref();
    let netns = netns
        .ok_or_else(|| refused(format!("the runtime does not say where the network of {} is", pod.full_name())))?;
    Ok(host.path(netns))
}

fn refused(why: String) -> Failure {
    Failure::Usage(why)
}
