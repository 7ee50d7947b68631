//! What was checked, and what came of it.

use serde::Serialize;

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is as it has to be.
    Passed,
    /// It can be gone on with, but somebody should know.
    Warning,
    /// Nothing is done until this is fixed.
    Refused,
}

/// One named check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name, which never changes.
    pub name: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// What was found, as a sentence.
    pub finding: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// The nodes that it is about, where it refuses for some alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
}

impl Check {
    /// It is as it has to be.
    pub fn passed(name: &'static str, finding: impl Into<String>) -> Check {
        Check { name, outcome: Outcome::Passed, finding: finding.into(), fix: None, nodes: Vec::new() }
    }

    /// It can be gone on with.
    pub fn warning(name: &'static str, finding: impl Into<String>, fix: impl Into<String>) -> Check {
        Check { name, outcome: Outcome::Warning, finding: finding.into(), fix: Some(fix.into()), nodes: Vec::new() }
    }

    /// Nothing is done until this is fixed.
    pub fn refused(name: &'static str, finding: impl Into<String>, fix: impl Into<String>) -> Check {
        Check { name, outcome: Outcome::Refused, finding: finding.into(), fix: Some(fix.into()), nodes: Vec::new() }
    }

    /// Passed where nothing is found, else refused: `problem` is the sentence up to what was found.
    pub fn refused_for_any(
        name: &'static str,
        passed: impl Into<String>,
        problem: &str,
        found: &[String],
        fix: impl Into<String>,
    ) -> Check {
        match found {
            [] => Check::passed(name, passed),
            _ => Check::refused(name, format!("{problem}{}", listed(found)), fix),
        }
    }

    /// Nothing is done until this is fixed.
    pub fn is_refused(&self) -> bool {
        self.outcome == Outcome::Refused
    }
}

/// Names several things in a sentence, the first few of them where they are many.
pub fn listed(names: &[String]) -> String {
    const SHOWN: usize = 5;
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] if names.len() <= SHOWN => format!("{} and {last}", first.join(", ")),
        _ => format!("{} and {} more", names[..SHOWN - 1].join(", "), names.len() + 1 - SHOWN),
    }
}
