//! A run's report, from its journal. Pure.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::act::missing;
use crate::journal::{Log, Record};
use crate::plan::Plan;
use crate::report::RunSummary;
use crate::step::Step;

/// Where a step says what became of each flow that it watched.
const PAIRS: &str = "pairs";
/// And which of the flows that were named did what they were not to.
const SURPRISES: &str = "surprises";

/// What the journal says of the run; outcome and sentence are the caller's.
pub(super) fn summary(log: &Log, plan: &Plan, run: &str) -> RunSummary {
    let mut steps = Vec::new();
    let mut total = 0;
    for record in &log.records {
        let (n, event, ms, mut result) = match record {
            Record::Done { n, ms, result, .. } => (*n, "done", *ms, result.clone()),
            Record::Undone { n, ms, result, .. } => (*n, "undone", *ms, result.clone()),
            Record::Failed { n, error, .. } => (*n, "failed", 0, json!(error)),
            _ => continue,
        };
        if let Some(fields) = result.as_object_mut() {
            // They have a place of their own.
            fields.remove(PAIRS);
            fields.remove(SURPRISES);
        }
        total += ms;
        let step = plan.steps.get(n);
        steps.push(json!({
            "n": n + 1, "step": step.map(Step::name), "title": step.map(Step::title), "event": event, "ms": ms, "result": result,
        }));
    }
    let reason = match log.records.first() {
        Some(Record::Open { reason, .. }) => reason.clone(),
        _ => None,
    };
    RunSummary {
        run: run.to_owned(),
        node: plan.node.clone(),
        outcome: String::new(),
        sentence: String::new(),
        owed: Vec::new(),
        ms: total,
        measured: measured(log, plan),
        pairs: watched_in(log, PAIRS),
        surprises: watched_in(log, SURPRISES),
        steps,
        report: String::new(),
        reason,
    }
}

/// What became of the flows that were watched; of a run that was resumed or taken back, in the order of its lives.
fn watched_in<T: DeserializeOwned>(log: &Log, field: &str) -> Vec<T> {
    let found = log.records.iter().filter_map(|record| match record {
        Record::Done { result, .. } | Record::Failed { result, .. } | Record::Undone { result, .. } => {
            result.get(field)
        }
        _ => None,
    });
    // What another version wrote is not worth a failure.
    found.filter_map(|list| serde_json::from_value::<Vec<T>>(list.clone()).ok()).flatten().collect()
}

/// What the probe after the switch found, in a line.
fn measured(log: &Log, plan: &Plan) -> Option<String> {
    let n = plan.steps.iter().position(|s| matches!(s, Step::Probe { .. }))?;
    let found = log.result(n)?;
    let peers = found["host"]["peers"].as_object()?;
    let up = peers.values().filter(|r| r["received"].as_u64().unwrap_or(0) > 0).count();
    let pod = match found["pod"]["attachment"]["address"].as_str() {
        Some(ip) => format!("from the host and from an attachment of our own ({ip})"),
        None => "from the host".to_owned(),
    };
    let lost: Vec<&str> =
        found["pod"]["not_answered"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let but = match lost.is_empty() {
        true => String::new(),
        false => format!(
            "; from the attachment these did not (a network policy of the pod that lent its name may forbid it): {}",
            lost.join(", ")
        ),
    };
    let unproven = match silent_before(log, plan) {
        silent if silent.is_empty() => String::new(),
        silent => format!("; these did not answer before, so nothing is proven of them: {}", silent.join(", ")),
    };
    let watched = watched(log, plan).unwrap_or_default();
    Some(format!("{up} of {} targets that answered before answer now, {pod}{but}{unproven}{watched}", peers.len()))
}

/// What pods that were re-plumbed have missed meanwhile.
fn watched(log: &Log, plan: &Plan) -> Option<String> {
    let n = plan.steps.iter().position(|s| matches!(s, Step::JudgeOutage { .. }))?;
    let found = log.result(n)?;
    let (asked, lost, gap) = (found["asked"].as_u64()?, found["lost"].as_u64()?, found["longest_gap_ms"].as_u64()?);
    let silent: Vec<&str> =
        found["never_answered"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let silent = if silent.is_empty() { String::new() } else { format!("; never an answer: {}", silent.join(", ")) };
    Some(format!(
        "; of {asked} questions to and from the pods that were re-plumbed {lost} were lost, the longest silence was {gap} ms{silent}",
    ))
}

/// What did not answer when it was measured before the switch.
fn silent_before(log: &Log, plan: &Plan) -> Vec<String> {
    let baseline = plan.steps.iter().enumerate().find_map(|(n, step)| match step {
        Step::Baseline { targets } => Some((targets, log.result(n)?)),
        _ => None,
    });
    baseline.map(|(targets, found)| missing(targets, &found["host"])).unwrap_or_default()
}
