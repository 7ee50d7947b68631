//! `nodectl probe`: numbered questions from this host and from pods, for a while; loss, gaps and round trips of each pair.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::settings::Settings;
use crate::cli::ProbeArgs;
use crate::clock;
use crate::failure::{Failure, code};
use crate::host::Host;
use crate::host::answerer::Answerer;
use crate::journal::Timeline;
use crate::observe;
use crate::probe::{Asked, Session, open, sources, surprise, trace, wanted};
use crate::report;
use crate::run::Folders;
use crate::stop::Stop;

pub(super) fn run(host: &Host, args: &ProbeArgs, settings: &Settings) -> Result<u8> {
    let stop = Stop::listen(None)?;
    let facts = observe::node(host);
    let asked = Asked { from: args.from.clone(), to: args.to.clone(), refuse: args.refuse.clone() };
    let found = wanted(&facts, &asked).map_err(Failure::Usage)?;
    if found.is_empty() {
        return Err(Failure::Usage(nothing_to_probe(&asked)).into());
    }
    let mut answerers = Vec::new();
    if let Some(port) = args.answer {
        for (_, netns) in sources(&facts, &args.from).map_err(Failure::Usage)? {
            let netns = netns.map(|netns| host.path(netns));
            answerers.push(Answerer::start(netns.as_deref(), port)?);
        }
    }
    let (flows, _echoes) = open(host, &found)?;
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

fn nothing_to_probe(asked: &Asked) -> String {
    let why = match asked.has_targets() {
        false => "this node has no peers and no gateway. To fix it: name a target with --to",
        true => {
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
