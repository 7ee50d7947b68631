//! How a run went, and the runs of this node.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock;
use crate::journal::{Log, Outcome, Record};

/// How a run ended, for the report and for stdout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// The run's id.
    pub run: String,
    /// The node.
    pub node: String,
    /// `switched`, `retired`, `put-back`, `owes`, `open`.
    pub outcome: String,
    /// The same in a sentence.
    pub sentence: String,
    /// What is owed still, with what keeps each.
    pub owed: Vec<String>,
    /// Milliseconds from its start to its end.
    pub ms: u64,
    /// What the probes measured, in a line.
    pub measured: Option<String>,
    /// Steps with their times and results.
    pub steps: Vec<Value>,
    /// Path of the report.
    pub report: String,
    /// Why, as given.
    pub reason: Option<String>,
}

/// The end of a run, in a few lines.
pub fn run_text(summary: &RunSummary) -> String {
    let mut text = format!("{}\n", summary.sentence);
    if !summary.owed.is_empty() {
        text.push_str("Owed still:\n");
        summary.owed.iter().for_each(|debt| text.push_str(&format!("  - {debt}\n")));
    }
    if let Some(measured) = &summary.measured {
        text.push_str(&format!("Measured: {measured}\n"));
    }
    text.push_str(&format!("Run {}, {}. Report: {}\n", summary.run, clock::spent(summary.ms), summary.report));
    text
}

/// The runs of this node, newest last.
pub fn history_text(runs: &[(String, Log)]) -> String {
    if runs.is_empty() {
        return "No run of nodectl has taken place on this node.\n".into();
    }
    let mut text = format!("{:<28} {:<21} {:<22} {}\n", "RUN", "BEGUN", "SWITCH", "OUTCOME");
    for (id, log) in runs {
        let (at, switch) = match log.records.first() {
            Some(Record::Open { at, plan, .. }) if plan.is_retirement() => {
                (at.as_str(), format!("none, on {}", plan.from))
            }
            Some(Record::Open { at, plan, .. }) => (at.as_str(), format!("{} -> {}", plan.from, plan.request.to)),
            _ => ("?", "?".into()),
        };
        let outcome = match log.outcome() {
            Some(Outcome::Switched) if log.plan().is_some_and(|p| p.is_retirement()) => "shim retired".to_owned(),
            Some(Outcome::Switched) => "switched".to_owned(),
            Some(Outcome::PutBack) => "put back".to_owned(),
            None if log.reverting() => "open, on its way back".to_owned(),
            None => "open".to_owned(),
        };
        text.push_str(&format!("{id:<28} {at:<21} {switch:<22} {outcome}\n"));
    }
    text
}
