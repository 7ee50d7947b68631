//! What happens in a run, for the system's journal and for `systemctl status`. Each kind of event has a MESSAGE_ID of its own,
//! explained in systemd/nodectl.catalog (`journalctl -x`); the fields NODECTL_RUN, NODECTL_STEP and NODECTL_POD tell where.

use crate::host::{journald, systemd};

/// A kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A run was begun.
    RunBegan,
    /// A step was done.
    StepDone,
    /// A step failed, forward or back.
    StepFailed,
    /// A step was undone.
    StepUndone,
    /// Something was done to a pod.
    Pod,
    /// The node is on the CNI that was asked for, and the run is closed.
    Switched,
    /// The node is as it was before the run, and the run is closed.
    PutBack,
    /// The run was taken back and owes something.
    Owes,
    /// The run stays open and needs hands.
    StaysOpen,
    /// The node is on the CNI that was asked for, and is taken back unless that is confirmed in time.
    Unconfirmed,
    /// The run was confirmed.
    Confirmed,
    /// Nobody confirmed the run in time.
    NotConfirmed,
}

impl Event {
    /// All kinds.
    pub const ALL: [Event; 12] = [
        Event::RunBegan,
        Event::StepDone,
        Event::StepFailed,
        Event::StepUndone,
        Event::Pod,
        Event::Switched,
        Event::PutBack,
        Event::Owes,
        Event::StaysOpen,
        Event::Unconfirmed,
        Event::Confirmed,
        Event::NotConfirmed,
    ];

    /// Its MESSAGE_ID. Other people's scripts rely on these.
    pub fn id(self) -> &'static str {
        match self {
            Event::RunBegan => "d554f8d69d9c449585c84a5249ee0e2c",
            Event::StepDone => "e67a6b1d319f4c0e9abf79edbbdc22ee",
            Event::StepFailed => "442d4004806c41b9845c8f174f88a442",
            Event::StepUndone => "25c03b78e542400f924da7624b5c5f56",
            Event::Pod => "5bf97f52092d4fbf82a911c8ed04116e",
            Event::Switched => "b5d9826b2b77471c98108a8e69263fb4",
            Event::PutBack => "3908cd27c8fd4ea997c7bcdc8af47fd3",
            Event::Owes => "f6920a409d674e2684f19148a0506617",
            Event::StaysOpen => "57636d46429a4e729ada7372ebce547d",
            Event::Unconfirmed => "9ea68498c4de491e8dd8b1fad84b0b2b",
            Event::Confirmed => "ef4508469bdc4bfab759e4509d09296f",
            Event::NotConfirmed => "aeb8edc4807b49be8806ddcf11a4c940",
        }
    }

    /// syslog's priority: 3 error, 4 warning, 5 notice, 6 information.
    fn priority(self) -> &'static str {
        match self {
            Event::StepFailed | Event::StaysOpen => "3",
            Event::PutBack | Event::Owes | Event::Unconfirmed | Event::NotConfirmed => "4",
            Event::RunBegan | Event::Switched | Event::Confirmed => "5",
            Event::StepDone | Event::StepUndone | Event::Pod => "6",
        }
    }
}

/// Tells the journal. What systemd's journal does not take is lost: the run's own journal holds it all.
pub fn tell(event: Event, run: &str, message: &str, fields: &[(&str, &str)]) {
    let mut entry = vec![
        ("MESSAGE", message),
        ("MESSAGE_ID", event.id()),
        ("PRIORITY", event.priority()),
        ("SYSLOG_IDENTIFIER", "nodectl"),
        ("NODECTL_RUN", run),
    ];
    entry.extend_from_slice(fields);
    journald::send(&entry);
}

/// What the run does now, for `systemctl status`.
pub fn doing(n: usize, of: usize, what: &str) {
    systemd::notify_status(&format!("step {n}/{of}: {what}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_an_id_that_the_catalog_explains() {
        let catalog = include_str!("../../systemd/nodectl.catalog");
        let ids: std::collections::BTreeSet<&str> = Event::ALL.iter().map(|event| event.id()).collect();
        assert_eq!(ids.len(), Event::ALL.len());
        for id in ids {
            assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
            assert!(catalog.lines().any(|line| line == format!("-- {id}")), "{id} is not in the catalog");
        }
        assert_eq!(catalog.lines().filter(|line| line.starts_with("-- ")).count(), Event::ALL.len());
    }
}
