//! The numbers of one pair, over all the processes that probed it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Endpoint;
use super::probe::Report;

/// What was seen of one pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Where datagrams came from.
    pub source: Endpoint,
    /// Where they went.
    pub target: Endpoint,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that were not answered.
    pub lost: u64,
    /// The longest time without an answer.
    pub longest_gap: Duration,
    /// The addresses that the target saw as the sender's.
    pub seen: BTreeSet<String>,
    /// When some of those without an answer were sent, in ns since 1970, and what the kernel said, if it refused.
    pub unanswered: Vec<(u64, Option<String>)>,
    last_answer: u64,
}

impl Flow {
    /// A pair of which nothing is known yet.
    pub fn new(source: Endpoint, target: Endpoint) -> Flow {
        Flow {
            source,
            target,
            sent: 0,
            lost: 0,
            longest_gap: Duration::ZERO,
            seen: BTreeSet::new(),
            unanswered: Vec::new(),
            last_answer: 0,
        }
    }

    /// The same with one more process's numbers; the time between two processes' answers is a gap too.
    pub fn with(mut self, report: &Report) -> Flow {
        self.sent += report.sent;
        self.lost += report.sent.saturating_sub(report.answered);
        self.widen(report.longest_gap);
        if report.answered > 0 {
            let begin = if self.last_answer > 0 { self.last_answer } else { report.first_sent };
            self.widen(report.first_answer.saturating_sub(begin));
            self.last_answer = report.last_answer;
        } else if self.last_answer == 0 {
            // Never an answer: the silence began with the first datagram.
            self.last_answer = report.first_sent;
        }
        self.seen.extend(report.seen.iter().cloned());
        self.unanswered.extend(report.unanswered.iter().cloned());
        self
    }

    /// The same, ended at a time: the silence since the last answer is a gap too.
    pub fn ended(mut self, at: u64) -> Flow {
        if self.last_answer > 0 {
            self.widen(at.saturating_sub(self.last_answer));
        }
        self
    }

    /// Notes a gap.
    fn widen(&mut self, gap: u64) {
        self.longest_gap = self.longest_gap.max(Duration::from_nanos(gap));
    }
}

impl std::fmt::Display for Flow {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(
            out,
            "{} -> {}: {} sent, {} lost, longest gap {} ms",
            self.source,
            self.target,
            self.sent,
            self.lost,
            self.longest_gap.as_millis()
        )?;
        for (at, refused) in &self.unanswered {
            write!(out, "; lost at {} ms", at / 1_000_000)?;
            refused.iter().try_for_each(|said| write!(out, " ({said})"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(sent: u64, answered: u64, first: u64, last: u64, gap: u64) -> Report {
        Report {
            sent,
            answered,
            first_sent: first,
            first_answer: first,
            last_answer: last,
            longest_gap: gap,
            ..Report::default()
        }
    }

    #[test]
    fn the_silence_between_two_processes_is_a_gap() {
        let flow = Flow::new(Endpoint::parse("a"), Endpoint::parse("b"));
        let flow = flow.with(&report(10, 9, 1_000, 2_000, 300)).with(&report(10, 10, 5_000, 6_000, 100)).ended(6_500);
        assert_eq!((flow.sent, flow.lost, flow.longest_gap), (20, 1, Duration::from_nanos(3_000)));
    }

    #[test]
    fn never_an_answer_is_one_long_gap() {
        let flow = Flow::new(Endpoint::parse("a"), Endpoint::parse("b")).with(&report(5, 0, 1_000, 0, 0)).ended(9_000);
        assert_eq!((flow.lost, flow.longest_gap), (5, Duration::from_nanos(8_000)));
    }
}
