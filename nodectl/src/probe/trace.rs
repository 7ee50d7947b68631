//! At which step of a run something happened to a flow. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::FlowReport;
use crate::journal::Timeline;

/// The steps of a run that were underway in a time; none where no run was at work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct During {
    /// The step at its beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The step at its end, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_step: Option<String>,
}

/// A time without answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// When it began, in milliseconds since 1970.
    pub at_ms: u64,
    /// How long it was, in microseconds.
    pub us: u64,
    /// What a run did meanwhile.
    #[serde(flatten)]
    pub during: During,
}

/// When a flow was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// When the first answer came, in milliseconds since 1970.
    pub first_ms: u64,
    /// When the last one came.
    pub last_ms: u64,
    /// What a run did meanwhile.
    #[serde(flatten)]
    pub during: During,
}

impl During {
    /// Whether a run was at work.
    pub fn is_known(&self) -> bool {
        *self != During::default()
    }

    fn between(begin_ms: u64, end_ms: u64, runs: &[Timeline]) -> During {
        let at = |ms| runs.iter().find_map(|run| run.step_at(ms)).map(str::to_owned);
        let (step, last) = (at(begin_ms), at(end_ms));
        During { last_step: last.filter(|last| step.as_ref() != Some(last)), step }
    }
}

/// As the end of a sentence: `, during X`, `, from X to Y`; nothing where no run was at work.
impl fmt::Display for During {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.step, &self.last_step) {
            (None, None) => Ok(()),
            (Some(step), None) => write!(f, ", during {step}"),
            (Some(step), Some(last)) => write!(f, ", from {step} to {last}"),
            (None, Some(last)) => write!(f, ", from before a step was underway to {last}"),
        }
    }
}

/// Finds for every gap, and for the time in which a flow was answered, the steps of these runs that were underway.
pub fn trace(reports: &mut [FlowReport], runs: &[Timeline]) {
    for report in reports {
        for gap in &mut report.gaps {
            let end = gap.at_ms + gap.us / 1000;
            // The last answer is older than what stopped the next one.
            let begin = report.lost_at_ms.iter().copied().find(|at| (gap.at_ms..=end).contains(at));
            gap.during = During::between(begin.unwrap_or(gap.at_ms), end, runs);
        }
        if let Some(answers) = &mut report.answers {
            answers.during = During::between(answers.first_ms, answers.last_ms, runs);
        }
    }
}
