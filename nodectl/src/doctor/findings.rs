//! What a check finds.

use serde::{Deserialize, Serialize};

use super::Check;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Untidy; nothing fails.
    Notice,
    /// Something fails now and then, or will.
    Warning,
    /// Pods are cut off, or do not start.
    Critical,
}

impl Severity {
    /// All of them, the worst first.
    pub const ALL: [Severity; 3] = [Severity::Critical, Severity::Warning, Severity::Notice];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Notice => "notice",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// The state of the whole node, as monitoring takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// At most notices.
    Ok,
    /// A warning.
    Warning,
    /// Something critical.
    Critical,
    /// Nothing worse was found, and not all could be looked at.
    Unknown,
}

impl State {
    /// Of a node with these findings. Pure.
    pub fn of(findings: &[Finding]) -> State {
        let unseen = |f: &&Finding| f.id == "unobserved";
        match findings.iter().filter(|f| !unseen(f)).map(|f| f.severity).max() {
            Some(Severity::Critical) => State::Critical,
            Some(Severity::Warning) => State::Warning,
            Some(Severity::Notice) | None if findings.iter().any(|f| unseen(&f)) => State::Unknown,
            Some(Severity::Notice) | None => State::Ok,
        }
    }
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Name of the check; stable, for scripts.
    pub id: String,
    /// How bad it is.
    pub severity: Severity,
    /// What it is, in a sentence.
    pub what: String,
    /// What it causes.
    pub causes: String,
    /// How it was recognised.
    pub evidence: String,
    /// The objects, in the words of the tool that shows them.
    pub objects: Vec<String>,
    /// The command that mends it.
    pub command: String,
}

/// What a check found, without what every finding of the check has in common.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub what: String,
    pub evidence: String,
    pub objects: Vec<String>,
    pub command: String,
}

/// A word for a shell: commands are there to be copied, and whoever made a file chose its name.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

impl Found {
    /// Of so many objects; none is no finding.
    pub fn some(objects: Vec<String>, found: impl FnOnce(Vec<String>) -> Found) -> Option<Found> {
        if objects.is_empty() { None } else { Some(found(objects)) }
    }

    pub fn of(self, check: &Check) -> Finding {
        Finding {
            id: check.id.into(),
            severity: check.severity,
            what: self.what,
            causes: check.causes.into(),
            evidence: self.evidence,
            objects: self.objects,
            command: self.command,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_does_what_it_says_whatever_a_file_is_called() {
        assert_eq!(quoted("/etc/cni/net.d/10-flannel.conflist"), "/etc/cni/net.d/10-flannel.conflist");
        assert_eq!(quoted("02 odd $(id)"), "'02 odd $(id)'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
