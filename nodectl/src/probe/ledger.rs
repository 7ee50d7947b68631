//! What became of one flow's questions. Pure: times come in, as time since the probe began.

use std::collections::VecDeque;
use std::time::Duration;

use super::trace::{Answers, During, Gap};

/// An answer that comes later than this is as good as lost.
pub(super) const LATE: Duration = Duration::from_secs(2);
/// How many gaps are remembered, the longest ones, and how many lost questions, the first ones.
const REMEMBERED: usize = 16;

/// The numbers of one flow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    /// Questions asked, those that were refused on their way included.
    pub sent: u64,
    /// Questions answered in time.
    pub answered: u64,
    /// Questions that the network or the far end refused.
    pub refused: u64,
    /// Questions that this machine could not ask.
    pub failed: u64,
    /// Connections that stood.
    pub connections: u64,
    /// Connections that broke.
    pub breaks: u64,
    /// The last refusal's or break's own words.
    pub said: Option<String>,
    /// Round trips.
    pub least: Duration,
    pub most: Duration,
    pub total: Duration,
    /// The longest times between two answers: when they began, how long they were.
    gaps: Vec<(Duration, Duration)>,
    /// When the first of the lost questions were asked.
    lost: Vec<Duration>,
    under_way: VecDeque<(u64, Duration)>,
    last: Option<Duration>,
    /// The first and the last answer.
    answers: Option<(Duration, Duration)>,
}

impl Ledger {
    pub fn asked(&mut self, number: u64, at: Duration) {
        // The silence before the first answer begins with the first question.
        self.last.get_or_insert(at);
        self.sent += 1;
        self.under_way.push_back((number, at));
        while self.under_way.front().is_some_and(|(_, asked)| at.saturating_sub(*asked) > LATE) {
            let given_up = self.under_way.pop_front();
            self.lose(given_up);
        }
    }

    fn lose(&mut self, question: Option<(u64, Duration)>) {
        self.lost.extend(question.map(|(_, asked)| asked).filter(|_| self.lost.len() < REMEMBERED));
    }

    /// The last question was refused, or one before it: ICMP does not say which.
    pub fn refused(&mut self, why: String) {
        self.refused += 1;
        self.give_up_last(why);
    }

    /// The last question could not be asked.
    pub fn failed(&mut self, why: String) {
        self.failed += 1;
        self.give_up_last(why);
    }

    fn give_up_last(&mut self, why: String) {
        let last = self.under_way.pop_back();
        self.lose(last);
        self.said = Some(why);
    }

    /// The connection broke; what was under way on it is lost.
    pub fn broke(&mut self, why: String) {
        self.breaks += 1;
        while let Some(lost) = self.under_way.pop_front() {
            self.lose(Some(lost));
        }
        self.said = Some(why);
    }

    pub fn answered(&mut self, number: u64, at: Duration) {
        // The order may change on the way; a question that is not under way was answered before, or is given up.
        let Some(place) = self.under_way.iter().position(|(n, _)| *n == number) else { return };
        let Some((_, asked)) = self.under_way.remove(place) else { return };
        let took = at.saturating_sub(asked);
        self.least = if self.answered == 0 { took } else { self.least.min(took) };
        self.most = self.most.max(took);
        self.total += took;
        self.answered += 1;
        self.answers = Some((self.answers.map_or(at, |(first, _)| first), at));
        self.silent_until(at);
    }

    /// The probe has ended: the silence since the last answer counts too.
    pub fn ended(&mut self, at: Duration) {
        while let Some(lost) = self.under_way.pop_front() {
            self.lose(Some(lost));
        }
        if self.sent > 0 {
            self.silent_until(at);
        }
    }

    /// When the first of the lost questions were asked, in milliseconds since 1970.
    pub fn lost_at(&self, began_ms: u64) -> Vec<u64> {
        self.lost.iter().map(|at| began_ms + milliseconds(*at)).collect()
    }

    /// When the first and the last answer came.
    pub fn answers(&self, began_ms: u64) -> Option<Answers> {
        let when = |at| began_ms + milliseconds(at);
        self.answers.map(|(first, last)| Answers {
            first_ms: when(first),
            last_ms: when(last),
            during: During::default(),
        })
    }

    /// Questions that will not be answered any more.
    pub fn lost(&self) -> u64 {
        self.sent - self.answered - self.under_way.len() as u64
    }

    pub fn is_settled(&self) -> bool {
        self.under_way.is_empty()
    }

    pub fn longest(&self) -> Duration {
        self.gaps.iter().map(|(_, length)| *length).max().unwrap_or_default()
    }

    /// The longest time without an answer in which a question was lost: that nothing was answered because the machine was busy
    /// is no outage.
    pub fn outage(&self) -> Duration {
        if self.lost() == 0 {
            return Duration::ZERO;
        }
        let longest = self.gaps.iter().filter(|gap| self.is_outage(gap)).map(|(_, length)| *length).max();
        // One that is not among the longest gaps was no longer than the shortest of them.
        longest.or_else(|| self.gaps.iter().map(|(_, length)| *length).min()).unwrap_or_default()
    }

    /// Whether a question was lost in this gap.
    fn is_outage(&self, (begin, length): &(Duration, Duration)) -> bool {
        // Of the lost ones only the first are remembered.
        self.lost() > REMEMBERED as u64 || self.lost.iter().any(|at| (*begin..=*begin + *length).contains(at))
    }

    /// The longest gaps: those that are longer than `least`, and those in which a question was lost. In the order in which they
    /// came.
    pub fn gaps(&self, least: Duration, began_ms: u64) -> Vec<Gap> {
        let is_told = |gap: &&(Duration, Duration)| gap.1 > least || self.is_outage(gap);
        let mut gaps: Vec<_> = self.gaps.iter().filter(is_told).collect();
        gaps.sort_unstable();
        let gap = |(begin, length): &(Duration, Duration)| Gap {
            at_ms: began_ms + milliseconds(*begin),
            us: u64::try_from(length.as_micros()).unwrap_or(u64::MAX),
            during: During::default(),
        };
        gaps.into_iter().map(gap).collect()
    }

    fn silent_until(&mut self, at: Duration) {
        let begin = self.last.replace(at).unwrap_or(at);
        let gap = (begin, at.saturating_sub(begin));
        if self.gaps.len() < REMEMBERED {
            self.gaps.push(gap);
        } else if let Some(shortest) = self.gaps.iter_mut().min_by_key(|(_, length)| *length)
            && shortest.1 < gap.1
        {
            *shortest = gap;
        }
    }
}

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn loss_gap_and_round_trip_are_counted() {
        let mut ledger = Ledger::default();
        for n in 0..10 {
            ledger.asked(n, ms(n * 10));
            if !(3..6).contains(&n) {
                ledger.answered(n, ms(n * 10 + 1 + n));
            }
        }
        ledger.answered(2, ms(95));
        ledger.ended(ms(200));
        assert_eq!((ledger.sent, ledger.answered), (10, 7), "a second answer to one question is none");
        assert_eq!((ledger.least, ledger.most), (ms(1), ms(10)));
        assert_eq!(ledger.longest(), ms(200 - 100), "the silence at the end counts");
        assert_eq!(ledger.outage(), ms(67 - 23), "nothing was asked any more at the end");
        let gaps = ledger.gaps(ms(20), 1_000_000);
        assert_eq!(ledger.lost_at(1_000_000), [1_000_030, 1_000_040, 1_000_050]);
        let gap = |at_ms, us| Gap { at_ms, us, during: During::default() };
        assert_eq!(gaps, [gap(1_000_023, 44_000), gap(1_000_100, 100_000)]);
        assert_eq!(ledger.gaps(ms(150), 1_000_000), gaps[..1], "one in which a question was lost is always told");
        let answers = ledger.answers(1_000_000).unwrap();
        assert_eq!((answers.first_ms, answers.last_ms), (1_000_001, 1_000_100));
    }

    #[test]
    fn a_flow_that_was_never_answered_is_one_gap() {
        let mut ledger = Ledger::default();
        for n in 0..5 {
            ledger.asked(n, ms(n * 100));
        }
        ledger.ended(ms(500));
        assert_eq!((ledger.answered, ledger.longest(), ledger.outage()), (0, ms(500), ms(500)));
    }

    #[test]
    fn a_machine_that_was_busy_had_no_outage() {
        let mut ledger = Ledger::default();
        for n in 0..4 {
            ledger.asked(n, ms(n * 50));
            ledger.answered(n, ms(n * 50 + 300 * u64::from(n == 2)));
        }
        ledger.ended(ms(450));
        assert!(ledger.longest() >= ms(250) && ledger.outage() == ms(0));
    }

    #[test]
    fn late_answers_refusals_and_breaks_are_losses() {
        let mut ledger = Ledger::default();
        ledger.asked(1, ms(0));
        ledger.asked(2, LATE + ms(1));
        ledger.answered(1, LATE + ms(2));
        assert_eq!(ledger.answered, 0);
        ledger.refused("prohibited".into());
        assert!(ledger.is_settled());
        ledger.asked(3, LATE + ms(3));
        ledger.broke("reset".into());
        ledger.answered(3, LATE + ms(4));
        assert_eq!((ledger.sent, ledger.answered, ledger.refused, ledger.breaks), (3, 0, 1, 1));
        assert_eq!(ledger.said.as_deref(), Some("reset"));
        ledger.asked(4, LATE + ms(5));
        ledger.failed("no route".into());
        assert_eq!((ledger.refused, ledger.failed, ledger.lost.len()), (1, 1, 4));
    }

    #[test]
    fn only_the_longest_gaps_are_kept() {
        let mut ledger = Ledger::default();
        let mut at = 0;
        for n in 0..100_u64 {
            ledger.asked(n, ms(at));
            at += 1 + n % 50;
            ledger.answered(n, ms(at));
        }
        assert_eq!(ledger.gaps.len(), REMEMBERED);
        assert_eq!(ledger.longest(), ms(50));
        assert!(ledger.gaps.iter().all(|(_, length)| *length > ms(40)));
    }
}
