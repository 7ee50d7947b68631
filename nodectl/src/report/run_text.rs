//! How a run went, and the runs of this node.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock;
use crate::cni::Cni;
use crate::journal::{Debt, Log, Outcome};
use crate::probe::{Expect, FlowReport};
use crate::step::words::count;

use super::probe_text::{flows_text, surprises_text};

/// How a run ended, for the report and for stdout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// The run's id.
    pub run: String,
    /// The node.
    pub node: String,
    /// `switched`, `retired`, `put-back`, `owes`, `unconfirmed`, `open`.
    pub outcome: String,
    /// The same in a sentence.
    pub sentence: String,
    /// What is owed still, with what keeps each.
    pub owed: Vec<String>,
    /// Milliseconds from its start to its end.
    pub ms: u64,
    /// What the probes measured, in a line.
    pub measured: Option<String>,
    /// What became of each flow that was watched while the pods changed hands (strategy in-place).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pairs: Vec<FlowReport>,
    /// Which of the flows that were named did what they were not to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub surprises: Vec<String>,
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
    text.push_str(&pairs_text(&summary.pairs));
    text.push_str(&surprises_text(&summary.surprises));
    text.push_str(&format!("Run {}, {}. Report: {}\n", summary.run, clock::spent(summary.ms), summary.report));
    text
}

/// The flows that have lost something, and how many have not.
fn pairs_text(pairs: &[FlowReport]) -> String {
    let has_lost = |pair: &&FlowReport| pair.expect == Expect::Pass && pair.lost + pair.breaks > 0;
    let (losers, others): (Vec<&FlowReport>, Vec<&FlowReport>) = pairs.iter().partition(has_lost);
    let refused = others.iter().filter(|pair| pair.expect == Expect::Refuse).count();
    let mut text = String::new();
    if !losers.is_empty() {
        text.push_str(&flows_text(&losers));
    }
    let other = if losers.is_empty() { "pair" } else { "other pair" };
    match others.len() - refused {
        0 => {}
        n => text.push_str(&format!("{}, 0 lost\n", count(n, other))),
    }
    text
}

/// A run of this node, as the history tells of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Past {
    /// The run's id.
    pub run: String,
    /// When it began, RFC 3339.
    pub begun: Option<String>,
    /// The CNI that the node was on.
    pub from: Option<Cni>,
    /// The CNI that it was to be on; the same where the run took the shim away.
    pub to: Option<Cni>,
    /// How it ended, where it has.
    pub outcome: Option<Outcome>,
    /// It is the open run.
    pub open: bool,
    /// It has turned back.
    pub back: bool,
    /// By when it must be confirmed, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirm_by: Option<String>,
    /// Who began it.
    pub by: Option<String>,
    /// Why, as given with `--reason`.
    pub reason: Option<String>,
    /// SHA-256 of its plan.
    pub plan: Option<String>,
    /// What it owes.
    pub owed: Vec<Debt>,
    /// Why its journal cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

impl Past {
    /// One of which nothing is known but its id.
    pub fn unknown(run: String, open: bool) -> Past {
        Past { run, open, ..Past::default() }
    }

    /// From its journal.
    pub fn of(run: String, log: &Log, open: bool) -> Past {
        let plan = log.plan();
        Past {
            begun: log.begun().map(str::to_owned),
            from: plan.map(|p| p.from),
            to: plan.map(|p| p.request.to),
            outcome: log.outcome(),
            back: log.reverting(),
            confirm_by: log.to_be_confirmed().map(str::to_owned),
            by: log.by().map(str::to_owned),
            reason: log.reason().map(str::to_owned),
            plan: plan.map(crate::plan::Plan::hash),
            owed: log.debts(),
            ..Past::unknown(run, open)
        }
    }

    fn ended(&self) -> &'static str {
        match self.outcome {
            _ if self.unreadable.is_some() => "cannot be read",
            Some(Outcome::Switched) if self.from == self.to => "shim retired",
            Some(Outcome::Switched) => "switched",
            Some(Outcome::PutBack) => "put back",
            // Killed between its journal's first line and the file that makes it the open run.
            None if !self.open => "never begun",
            None if self.back && !self.owed.is_empty() => "open, owes",
            None if self.back => "open, on its way back",
            None if self.confirm_by.is_some() => "open, unconfirmed",
            None => "open",
        }
    }
}

/// The runs of this node, newest last.
pub fn history_text(runs: &[Past]) -> String {
    if runs.is_empty() {
        return "No run of nodectl has taken place on this node.\n".into();
    }
    let mut text = row(["RUN", "BEGUN", "SWITCH", "OUTCOME", "BY", "PLAN", "REASON"]);
    for run in runs {
        let at = run.begun.as_deref().unwrap_or("?");
        let switch = match (run.from, run.to) {
            (Some(from), Some(to)) if from == to => format!("none, on {from}"),
            (Some(from), Some(to)) => format!("{from} -> {to}"),
            _ => "?".into(),
        };
        let (by, plan) = (run.by.as_deref().unwrap_or("?"), run.plan.as_deref().unwrap_or("?"));
        let plan = plan.get(..12).unwrap_or(plan);
        text.push_str(&row([&run.run, at, &switch, run.ended(), by, plan, run.reason.as_deref().unwrap_or("")]));
    }
    for run in runs {
        if let Some(why) = &run.unreadable {
            text.push_str(&format!(
                "{}: {why}. To fix it: put the file back from a backup, or move it away\n",
                run.run
            ));
        }
    }
    text
}

fn row([run, begun, switch, outcome, by, plan, reason]: [&str; 7]) -> String {
    let line = format!("{run:<25} {begun:<20} {switch:<17} {outcome:<21} {by:<20} {plan:<12} {reason}");
    format!("{}\n", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_tells_how_each_run_ended() {
        let run = |outcome, open| Past {
            from: Some(Cni::Flannel),
            to: Some(Cni::Calico),
            outcome,
            ..Past::unknown("r".into(), open)
        };
        let torn = Past { unreadable: Some("line 3 does not parse".into()), ..run(None, false) };
        let runs = [
            run(Some(Outcome::Switched), false),
            Past { to: Some(Cni::Flannel), ..run(Some(Outcome::Switched), false) },
            run(Some(Outcome::PutBack), false),
            run(None, false),
            Past { back: true, owed: vec![Debt::PendingDels], ..run(None, true) },
            Past { back: true, ..run(None, true) },
            run(None, true),
            torn,
            Past {
                confirm_by: Some("2026-11-21T04:10:00Z".into()),
                by: Some("alice".into()),
                reason: Some("CHG 7".into()),
                plan: Some("0123456789abcdef".into()),
                ..run(None, true)
            },
        ];
        let ends: Vec<&str> = runs.iter().map(Past::ended).collect();
        let wanted =
            ["switched", "shim retired", "put back", "never begun", "open, owes", "open, on its way back", "open"];
        assert_eq!(ends[..7], wanted);
        assert_eq!(ends[7..], ["cannot be read", "open, unconfirmed"]);
        let text = history_text(&runs);
        assert!(text.contains("flannel -> Calico") && text.contains("r: line 3 does not parse. To fix it: "), "{text}");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("open, unconfirmed alice 0123456789ab CHG 7"), "{text}");
    }

    #[test]
    fn pairs_that_lost_something_are_shown_and_the_others_counted() {
        let pair = |lost: u64, expect: &str| -> FlowReport {
            serde_json::from_value(serde_json::json!({
                "from": "host", "kind": "icmp", "to": "default/a", "address": "10.1.0.2:0", "expect": expect, "sent": 10,
                "answered": 10 - lost, "lost": lost, "refused": 0, "failed": 0, "connections": 0, "breaks": 0,
                "longest_gap_us": 150_000, "outage_us": 150_000, "lost_at_ms": [], "least_us": 1, "mean_us": 2, "most_us": 3,
                "gaps": [{"at_ms": 5, "us": 150_000, "step": "hold (let new pods wait)"}],
            }))
            .unwrap()
        };
        assert_eq!(pairs_text(&[]), "");
        assert_eq!(pairs_text(&[pair(0, "pass"), pair(0, "pass"), pair(10, "refuse")]), "2 pairs, 0 lost\n");
        let text = pairs_text(&[pair(0, "pass"), pair(2, "pass")]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert!(lines[2].starts_with("  icmp default/a") && lines[2].contains("    2"), "{text}");
        assert!(lines[3].ends_with("150 ms from 00:00:00.005Z, during hold (let new pods wait)"), "{text}");
        assert_eq!(lines[4], "1 other pair, 0 lost");
    }
}
