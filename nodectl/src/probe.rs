//! Continuity probes: numbered questions at a rate from this host and from inside pods, and what became of them.
//!
//! One thread a flow asks and listens ([`flow`]); [`ledger`] counts; [`verdict`] compares with what was to be expected.
//! The command `nodectl probe` is one user, a switch that must not be felt is another.

mod flow;
mod ledger;
mod merged;
mod open;
pub mod target;
mod trace;
mod verdict;
mod wanted;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::host::line::Kind;
use crate::host::netns;
use ledger::Ledger;
pub use merged::merged;
pub use open::open;
pub use trace::{Answers, During, Gap, trace};
pub use verdict::{is_cut_off, surprise};
pub use wanted::{Asked, Wanted, sources, wanted};

/// What a flow is to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// It is answered.
    #[default]
    Pass,
    /// It is not answered: a network policy forbids it.
    Refuse,
}

/// One flow: from where, how, to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Its source, for people.
    pub from: String,
    /// Path of the network namespace that it starts in; this host's own where there is none.
    pub netns: Option<PathBuf>,
    /// How it asks.
    pub kind: Kind,
    /// Its target, for people.
    pub to: String,
    /// Where the questions go; ICMP has no port.
    pub address: SocketAddr,
    /// What it is to do.
    pub expect: Expect,
}

/// What became of a flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowReport {
    /// Its source.
    pub from: String,
    /// How it asked.
    pub kind: Kind,
    /// Its target.
    pub to: String,
    /// Where the questions went.
    pub address: SocketAddr,
    /// What it was to do.
    pub expect: Expect,
    /// Questions asked.
    pub sent: u64,
    /// Questions answered within two seconds.
    pub answered: u64,
    /// The others.
    pub lost: u64,
    /// Of those, the ones that the network or the far end refused.
    pub refused: u64,
    /// Of those, the ones that could not be asked, for want of a route or of a socket.
    pub failed: u64,
    /// Connections that stood (`tcp`).
    pub connections: u64,
    /// Connections that broke (`tcp`).
    pub breaks: u64,
    /// TCP segments sent again meanwhile from the network namespace of the source, other connections' included (`tcp`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retransmitted: Option<u64>,
    /// The longest time without an answer, in microseconds. At best it is the time between two questions.
    pub longest_gap_us: u64,
    /// The longest time without an answer in which a question was lost, in microseconds; what arrives in the end (`tcp`) was away
    /// while it was not answered.
    pub outage_us: u64,
    /// When the first of the lost questions were asked, in milliseconds since 1970; at most sixteen.
    pub lost_at_ms: Vec<u64>,
    /// Times without an answer that stand out or in which a question was lost, in the order in which they came; at most sixteen.
    pub gaps: Vec<Gap>,
    /// When it was answered, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Answers>,
    /// Shortest, mean and longest round trip, in microseconds.
    pub least_us: u64,
    /// See `least_us`.
    pub mean_us: u64,
    /// See `least_us`.
    pub most_us: u64,
    /// The last refusal, failure or break, in its own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<String>,
}

impl FlowReport {
    /// As people name it: `host -> icmp 10.1.0.2`.
    pub fn name(&self) -> String {
        format!("{} -> {} {}", self.from, self.kind.name(), self.to)
    }
}

#[cfg(test)]
impl FlowReport {
    /// One of this host's, for tests: so many questions, so many of them answered.
    pub(crate) fn example(to: &str, sent: u64, answered: u64) -> FlowReport {
        FlowReport {
            from: "host".into(),
            kind: Kind::Udp,
            to: to.into(),
            address: SocketAddr::from(([10, 1, 0, 2], 7)),
            expect: Expect::Pass,
            sent,
            answered,
            lost: sent - answered,
            refused: 0,
            failed: 0,
            connections: 0,
            breaks: 0,
            retransmitted: None,
            longest_gap_us: 0,
            outage_us: 0,
            lost_at_ms: Vec::new(),
            gaps: Vec::new(),
            answers: None,
            least_us: 0,
            mean_us: 0,
            most_us: 0,
            said: None,
        }
    }
}

/// Flows that are being probed.
pub struct Session {
    flows: Vec<(Flow, Arc<Counted>, JoinHandle<()>)>,
    stopping: Arc<AtomicBool>,
    clock: Clock,
    period: Duration,
}

/// What a flow's thread and its session share.
#[derive(Default)]
struct Counted {
    ledger: Mutex<Ledger>,
    retransmitted: Mutex<Option<u64>>,
}

/// When the session began, by both clocks.
#[derive(Debug, Clone, Copy)]
struct Clock {
    began: Instant,
    began_ms: u64,
}

impl Session {
    /// Begins to ask, each flow so often a second.
    pub fn start(flows: Vec<Flow>, rate: u32) -> Result<Session> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let clock = Clock { began: Instant::now(), began_ms: u64::try_from(since.as_millis()).unwrap_or_default() };
        let (stopping, period) = (Arc::new(AtomicBool::new(false)), Duration::from_secs(1) / rate.max(1));
        // From here on, a failure ends the threads that have begun.
        let mut session = Session { flows: Vec::new(), stopping, clock, period };
        for (n, flow) in flows.into_iter().enumerate() {
            let counted = Arc::new(Counted::default());
            let asker = flow::Asker {
                kind: flow.kind,
                target: flow.address,
                id: (clock.began_ms << 16) | (n as u64 & 0xffff),
                period,
                began: clock.began,
                stopping: Arc::clone(&session.stopping),
                counted: Arc::clone(&counted),
            };
            let thread = match &flow.netns {
                Some(path) => netns::spawn(path, move || asker.run())?,
                None => std::thread::spawn(move || asker.run()),
            };
            session.flows.push((flow, counted, thread));
        }
        Ok(session)
    }

    /// What became of the flows so far; what is still under way is not counted.
    pub fn reports(&self) -> Vec<FlowReport> {
        self.flows.iter().map(|(flow, counted, _)| self.report(flow, counted)).collect()
    }

    /// Asks no more, waits for late answers, and says what became of the flows.
    pub fn finish(mut self) -> Vec<FlowReport> {
        let ended = self.clock.began.elapsed();
        self.stopping.store(true, Ordering::Relaxed);
        let mut reports = Vec::new();
        for (flow, counted, thread) in std::mem::take(&mut self.flows) {
            // A thread that was lost has counted up to then.
            let _ = thread.join();
            lock(&counted.ledger).ended(ended);
            reports.push(self.report(&flow, &counted));
        }
        reports
    }

    fn report(&self, flow: &Flow, counted: &Counted) -> FlowReport {
        let ledger = lock(&counted.ledger);
        let us = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        // What a busy machine does to a thread's time is not worth a line each.
        let stands_out = (self.period * 3).max(Duration::from_millis(20));
        FlowReport {
            from: flow.from.clone(),
            kind: flow.kind,
            to: flow.to.clone(),
            address: flow.address,
            expect: flow.expect,
            sent: ledger.answered + ledger.lost(),
            answered: ledger.answered,
            lost: ledger.lost(),
            refused: ledger.refused,
            failed: ledger.failed,
            connections: ledger.connections,
            breaks: ledger.breaks,
            retransmitted: *lock(&counted.retransmitted),
            longest_gap_us: us(ledger.longest()),
            outage_us: us(if flow.kind == Kind::Tcp { ledger.longest() } else { ledger.outage() }),
            lost_at_ms: ledger.lost_at(self.clock.began_ms),
            gaps: ledger.gaps(stands_out, self.clock.began_ms),
            answers: ledger.answers(self.clock.began_ms),
            least_us: us(ledger.least),
            mean_us: us(ledger.total).checked_div(ledger.answered).unwrap_or(0),
            most_us: us(ledger.most),
            said: ledger.said.clone(),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

/// What is counted stays right whatever thread was lost while it counted.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
