//! What a node's nodectl says of its run on the node's own Node: the journal is read on the node alone, and whoever rolls a
//! cluster looks at the API server (`nodectl cluster status`, `kubectl describe node`).

use serde::{Deserialize, Serialize};

use crate::cni::Cni;

/// Version of the annotation that this build writes and reads.
pub const RUN_NOTE_VERSION: u32 = 1;

/// The value of the annotation `nodectl.io/run`. Where the API server did not take the last word, it tells an earlier one: the
/// journal decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunNote {
    /// Version of this form, [`RUN_NOTE_VERSION`].
    pub version: u32,
    /// The run's id, as in the node's journal.
    pub run: String,
    /// The CNI that the node was on.
    pub from: Cni,
    /// The CNI that was asked for; the same as `from` while the shim is taken away.
    pub to: Cni,
    /// Where the run stands.
    pub state: RunState,
    /// Since when, RFC 3339.
    pub at: String,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// On its way there.
    Switching,
    /// On its way back.
    TakingBack,
    /// Stopped on its way, for hands.
    Open,
    /// There, and taken back by itself unless somebody confirms it in time.
    Unconfirmed,
    /// All is undone but what it owes.
    Owing,
    /// Closed: the node is where it was asked to go.
    Switched,
    /// Closed: the node is as it was before.
    PutBack,
}

impl RunNote {
    /// The run takes the shim away and leaves the CNI as it is.
    pub fn is_retirement(&self) -> bool {
        self.from == self.to
    }

    /// The run is not closed yet.
    pub fn is_open(&self) -> bool {
        !matches!(self.state, RunState::Switched | RunState::PutBack)
    }

    /// The note in a few words, e.g. `to Calico: under way, since 2026-11-21T02:00:00Z`.
    pub fn words(&self) -> String {
        let what = if self.is_retirement() { "retiring the shim".to_owned() } else { format!("to {}", self.to) };
        let state = match self.state {
            RunState::Switching => "under way, since",
            RunState::TakingBack => "on its way back, since",
            RunState::Open => "OPEN, since",
            RunState::Unconfirmed => "done, UNCONFIRMED, since",
            RunState::Owing => "taken back, OWING, since",
            RunState::Switched => "done",
            RunState::PutBack => "taken back",
        };
        format!("{what}: {state} {}", self.at)
    }

    /// Parses the annotation. Errors name the version or the field that does not fit.
    pub fn parse(text: &str) -> Result<RunNote, String> {
        crate::prepared::versioned(text, RUN_NOTE_VERSION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_reads_as_it_was_written_and_another_version_is_named() {
        let note = RunNote {
            version: RUN_NOTE_VERSION,
            run: "20261121-020000-1a2b".into(),
            from: Cni::Flannel,
            to: Cni::Calico,
            state: RunState::TakingBack,
            at: "2026-11-21T02:00:00Z".into(),
        };
        let text = serde_json::to_string(&note).unwrap();
        assert!(text.contains("\"state\":\"taking-back\""), "{text}");
        assert_eq!(RunNote::parse(&text), Ok(note.clone()));
        assert_eq!(note.words(), "to Calico: on its way back, since 2026-11-21T02:00:00Z");
        let unconfirmed = RunNote { state: RunState::Unconfirmed, ..note };
        assert!(unconfirmed.is_open(), "it may be taken back");
        assert_eq!(unconfirmed.words(), "to Calico: done, UNCONFIRMED, since 2026-11-21T02:00:00Z");
        assert!(serde_json::to_string(&unconfirmed).unwrap().contains("\"state\":\"unconfirmed\""));
        let later = text.replace("\"version\":1", "\"version\":2");
        assert_eq!(RunNote::parse(&later).unwrap_err(), "it has version 2, this nodectl reads version 1");
        assert!(RunNote::parse("{").unwrap_err().starts_with("it is not JSON"));
    }
}
