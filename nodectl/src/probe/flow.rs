//! One flow's thread: asks on a fixed grid of times and listens in between.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::ledger::LATE;
use super::{Counted, lock};
use crate::host::line::{Kind, Line, Trouble};
use crate::host::netns;

/// How long a flow may take to notice that it is to end.
const GLANCE: Duration = Duration::from_millis(50);

/// A socket keeps the source address and the route that it was opened with, also when their device goes (a killed run's, for one):
/// after so long a silence another is opened, as whoever asks anew would.
const RENEW: Duration = Duration::from_secs(1);

/// What asks; it runs in the network namespace that its thread is in.
pub(super) struct Asker {
    pub kind: Kind,
    pub target: SocketAddr,
    /// Tells its answers from other flows'.
    pub id: u64,
    pub period: Duration,
    pub began: Instant,
    pub stopping: Arc<AtomicBool>,
    pub counted: Arc<Counted>,
}

impl Asker {
    /// Asks until the session ends, then waits for what is under way.
    pub fn run(&self) {
        let before = self.retransmitted();
        let (mut line, mut number, mut next) = (None, 0_u64, Instant::now());
        let mut heard = (0, Instant::now());
        while !self.stopping.load(Ordering::Relaxed) {
            number += 1;
            let answered = lock(&self.counted.ledger).answered;
            if answered != heard.0 {
                heard = (answered, Instant::now());
            } else if self.kind != Kind::Tcp && heard.1.elapsed() >= RENEW {
                (line, heard.1) = (None, Instant::now());
            }
            self.ask(&mut line, number);
            // A late question is not made up for by a burst.
            next = (next + self.period).max(Instant::now());
            self.listen(&mut line, next, || self.stopping.load(Ordering::Relaxed));
        }
        self.listen(&mut line, Instant::now() + LATE, || lock(&self.counted.ledger).is_settled());
        let sent_again = self.retransmitted().zip(before).map(|(now, before)| now.saturating_sub(before));
        *lock(&self.counted.retransmitted) = sent_again;
    }

    fn ask(&self, line: &mut Option<Line>, number: u64) {
        lock(&self.counted.ledger).asked(number, self.began.elapsed());
        if line.is_none() {
            match Line::open(self.kind, self.target, self.id) {
                Ok(opened) => {
                    *line = Some(opened);
                    lock(&self.counted.ledger).connections += u64::from(self.kind == Kind::Tcp);
                }
                Err(trouble) => return self.note(line, trouble),
            }
        }
        if let Some(open) = line
            && let Err(trouble) = open.ask(number)
        {
            self.note(line, trouble);
        }
    }

    /// Counts answers until a time, or until this is so.
    fn listen(&self, line: &mut Option<Line>, until: Instant, is_enough: impl Fn() -> bool) {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let glance = left.min(GLANCE);
            match line.as_mut().map(|open| open.answers(glance)) {
                Some(Ok(numbers)) => {
                    let now = self.began.elapsed();
                    let mut ledger = lock(&self.counted.ledger);
                    numbers.into_iter().for_each(|number| ledger.answered(number, now));
                }
                Some(Err(trouble)) => self.note(line, trouble),
                None if is_enough() => return,
                None => std::thread::sleep(glance),
            }
            if left.is_zero() || is_enough() {
                return;
            }
        }
    }

    fn note(&self, line: &mut Option<Line>, trouble: Trouble) {
        let mut ledger = lock(&self.counted.ledger);
        match trouble {
            Trouble::Refused(why) => ledger.refused(why),
            Trouble::Failed(why) => ledger.failed(why),
            Trouble::Broken(why) => {
                *line = None;
                ledger.broke(why);
            }
        }
    }

    fn retransmitted(&self) -> Option<u64> {
        (self.kind == Kind::Tcp).then(netns::retransmitted_segments).flatten()
    }
}
