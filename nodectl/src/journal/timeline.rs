//! Which step of a run was underway at what time, by its journal. Pure.

use super::{Log, Record};
use crate::clock;
use crate::step::Step;

/// Between two steps there is next to nothing; a run that waits (for a confirmation, for hands) is in none.
const BETWEEN_MS: u64 = 1000;

/// The steps of a run, done and undone, with their times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timeline {
    spans: Vec<Span>,
}

/// One step. Times in milliseconds since 1970; no end where the journal tells none.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    begun: u64,
    ended: Option<u64>,
    step: String,
}

impl Timeline {
    /// Reads the times of a journal.
    pub fn of(log: &Log) -> Timeline {
        Timeline::read(log.plan().map(|plan| plan.steps.as_slice()).unwrap_or_default(), &log.records)
    }

    fn read(steps: &[Step], records: &[Record]) -> Timeline {
        let mut spans: Vec<Span> = Vec::new();
        for record in records {
            let Some(at) = record.at().and_then(clock::milliseconds_at) else { continue };
            let (begun, ended, step) = match record {
                Record::Begin { n, .. } => (at, None, steps.get(*n).map(done)),
                Record::Done { n, ms, .. } => (at.saturating_sub(*ms), Some(at), steps.get(*n).map(done)),
                Record::Undone { n, ms, .. } => (at.saturating_sub(*ms), Some(at), steps.get(*n).map(undone)),
                Record::Failed { .. } => (at, Some(at), None),
                Record::Reverting { .. } => (at, None, Some("the way back".to_owned())),
                Record::Attach { .. } | Record::Close { .. } => (at, Some(at), None),
                _ => continue,
            };
            // What was underway has ended by now.
            if let Some(last) = spans.last_mut()
                && last.ended.is_none()
            {
                let same = ended.is_some() && step.as_ref() == Some(&last.step);
                last.ended = Some(if same { at } else { begun });
                if same {
                    continue;
                }
            }
            spans.extend(step.map(|step| Span { begun, ended, step }));
        }
        Timeline { spans }
    }

    /// The step that was underway at a time in milliseconds since 1970.
    pub fn step_at(&self, ms: u64) -> Option<&str> {
        let n = self.spans.iter().rposition(|span| span.begun <= ms)?;
        let (span, next) = (self.spans.get(n)?, self.spans.get(n + 1));
        let lasted = match (span.ended, next) {
            (Some(ended), Some(next)) if next.begun <= ended.saturating_add(BETWEEN_MS) => next.begun,
            (Some(ended), _) => ended,
            (None, _) => u64::MAX,
        };
        (ms <= lasted).then_some(span.step.as_str())
    }

    /// Whether the run was at work in a time.
    pub fn is_within(&self, from_ms: u64, until_ms: u64) -> bool {
        self.spans.iter().any(|span| span.begun <= until_ms && span.ended.is_none_or(|ended| ended >= from_ms))
    }
}

fn done(step: &Step) -> String {
    format!("{} ({})", step.name(), step.title())
}

fn undone(step: &Step) -> String {
    format!("{} (taken back: {})", step.name(), step.undo_title().unwrap_or_else(|| step.title()))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::cni::Cni;
    use crate::journal::Outcome;
    use crate::step::Before;

    /// So many milliseconds after noon.
    fn at(ms: u64) -> String {
        format!("2026-11-21T12:00:{:02}.{:03}Z", ms / 1000, ms % 1000)
    }

    fn noon() -> u64 {
        clock::milliseconds_at("2026-11-21T12:00:00Z").unwrap()
    }

    fn begin(n: usize, ms: u64) -> Record {
        Record::Begin { n, before: Before::Nothing, at: at(ms) }
    }

    fn end(n: usize, ms: u64, took: u64) -> Record {
        Record::Done { n, ms: took, at: Some(at(ms)), result: Value::Null }
    }

    fn timeline(records: &[Record]) -> Timeline {
        Timeline::read(&[Step::Cordon, Step::Hold { next: Cni::Calico }, Step::Uncordon], records)
    }

    fn steps(records: &[Record], times: &[u64]) -> Vec<Option<String>> {
        let timeline = timeline(records);
        let word =
            |ms: &u64| timeline.step_at(noon() + ms).map(|s| s.split(" (").next().unwrap_or_default().to_owned());
        times.iter().map(word).collect()
    }

    fn words(words: &[&str]) -> Vec<Option<String>> {
        words.iter().map(|word| Some((*word).to_owned()).filter(|word| !word.is_empty())).collect()
    }

    #[test]
    fn a_time_is_in_the_step_that_began_last() {
        let records = vec![begin(0, 1000), end(0, 1500, 500), begin(1, 1510), end(1, 1600, 90)];
        let found = steps(&records, &[999, 1000, 1505, 1510, 1600, 1601]);
        assert_eq!(found, words(&["", "cordon", "cordon", "hold", "hold", ""]));
        let timeline = timeline(&records);
        assert!(timeline.is_within(noon(), noon() + 1000) && timeline.is_within(noon() + 1600, noon() + 9000));
        assert!(!timeline.is_within(noon() + 1601, noon() + 9000) && !timeline.is_within(noon(), noon() + 999));
    }

    #[test]
    fn a_run_that_waits_is_in_no_step_and_one_at_work_in_its_last() {
        let records = vec![begin(0, 1000), end(0, 1500, 500), begin(1, 9000)];
        assert_eq!(steps(&records, &[1600, 8999, 9500, 50_000]), words(&["", "", "hold", "hold"]));
    }

    #[test]
    fn a_step_that_is_done_again_and_the_way_back_have_their_times() {
        let attach = Record::Attach { pid: 1, boot_id: String::new(), at: at(5000) };
        let reverting = Record::Reverting { why: String::new(), at: at(6000) };
        let undone = Record::Undone { n: 1, ms: 200, at: Some(at(6500)), result: Value::Null };
        let close = Record::Close { outcome: Outcome::PutBack, at: at(7000) };
        // Killed in hold, which is begun once more and fails.
        let failed = Record::Failed { n: 2, error: String::new(), at: Some(at(5900)), result: Value::Null };
        let again = vec![begin(1, 1000), attach, end(1, 5400, 300), begin(2, 5500), failed, reverting, undone, close];
        let found = steps(&again, &[3000, 5050, 5200, 5600, 6200, 6400, 6600, 7001]);
        assert_eq!(found, words(&["hold", "hold", "hold", "uncordon", "the way back", "hold", "", ""]));
        let timeline = timeline(&again);
        assert!(timeline.step_at(noon() + 6400).unwrap().contains("taken back"), "{timeline:?}");
    }
}
