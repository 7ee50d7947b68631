//! A journal, read: what stands, what is done, what is owed, how it ended. Pure.

use std::time::Duration;

use serde_json::Value;

use super::{Debt, Outcome, Record};
use crate::plan::Plan;
use crate::step::{Before, Step, UndoDue};

/// A run's journal, read whole.
#[derive(Debug, Clone)]
pub struct Log {
    /// Its records in order.
    pub records: Vec<Record>,
}

impl Log {
    /// The plan and the run's head.
    pub fn plan(&self) -> Option<&Plan> {
        match self.records.first() {
            Some(Record::Open { plan, .. }) => Some(plan),
            _ => None,
        }
    }

    /// Whether the run is the way back of a closed one.
    pub fn takes_back(&self) -> bool {
        matches!(self.records.first(), Some(Record::Open { takes_back: Some(_), .. }))
    }

    /// Whether the run took the shim away, and switched nothing.
    pub fn is_retirement(&self) -> bool {
        self.plan().is_some_and(Plan::is_retirement)
    }

    /// When the run began, RFC 3339.
    pub fn begun(&self) -> Option<&str> {
        match self.records.first() {
            Some(Record::Open { at, .. }) => Some(at),
            _ => None,
        }
    }

    /// Who began it.
    pub fn by(&self) -> Option<&str> {
        match self.records.first() {
            Some(Record::Open { by, .. }) => by.as_deref(),
            _ => None,
        }
    }

    /// Why, as was given.
    pub fn reason(&self) -> Option<&str> {
        match self.records.first() {
            Some(Record::Open { reason, .. }) => reason.as_deref(),
            _ => None,
        }
    }

    /// By when the run must be confirmed, RFC 3339; `None` where it need not be, was, or is on its way back.
    pub fn to_be_confirmed(&self) -> Option<&str> {
        let confirmed = self.records.iter().any(|r| matches!(r, Record::Confirmed { .. }));
        let until =
            self.records.iter().find_map(|r| if let Record::Armed { until, .. } = r { Some(until) } else { None });
        until.filter(|_| !confirmed && !self.reverting() && self.outcome().is_none()).map(String::as_str)
    }

    /// Whether all is done but what comes after it was confirmed.
    pub fn awaits_confirmation(&self) -> bool {
        let steps = self.plan().map(|plan| plan.steps.as_slice()).unwrap_or_default();
        let done = |(n, step): (usize, &Step)| step.done_last() || self.is_done(n);
        self.to_be_confirmed().is_some() && steps.iter().enumerate().all(done)
    }

    /// Pre-image of step `n`, where it was begun; the first one counts: later ones saw our own work.
    pub fn before(&self, n: usize) -> Option<&Before> {
        self.records.iter().find_map(|r| match r {
            Record::Begin { n: m, before, .. } if *m == n => Some(before),
            _ => None,
        })
    }

    /// Steps begun and not undone, in order.
    pub fn standing(&self) -> Vec<usize> {
        let mut standing = Vec::new();
        for record in &self.records {
            match record {
                Record::Begin { n, .. } if !standing.contains(n) => standing.push(*n),
                Record::Undone { n, .. } => standing.retain(|m| m != n),
                _ => {}
            }
        }
        standing
    }

    /// Whether step `n` was done and not undone since.
    pub fn is_done(&self, n: usize) -> bool {
        self.records.iter().rev().find_map(|r| match r {
            Record::Done { n: m, .. } if *m == n => Some(true),
            Record::Undone { n: m, .. } if *m == n => Some(false),
            _ => None,
        }) == Some(true)
    }

    /// Result of step `n`, where it was done.
    pub fn result(&self, n: usize) -> Option<&Value> {
        self.records.iter().rev().find_map(|r| match r {
            Record::Done { n: m, result, .. } if *m == n => Some(result),
            _ => None,
        })
    }

    /// Whether the run has turned back.
    pub fn reverting(&self) -> bool {
        self.records.iter().any(|r| matches!(r, Record::Reverting { .. }))
    }

    /// Whether the run has come all the way back, so that only debts are left, and what looks after them.
    pub fn is_undone(&self) -> bool {
        let owes = !self.debts().is_empty();
        let due = |n: usize| self.plan().and_then(|plan| plan.steps.get(n)).map(Step::undo_due);
        self.reverting()
            && self.standing().into_iter().all(|n| match due(n) {
                Some(UndoDue::Now) => false,
                Some(UndoDue::Paid) => owes,
                Some(UndoDue::Verified) | None => true,
            })
    }

    /// Whether the node serves pods on the CNI that was asked for: what is left of the run is no reason to disturb them again.
    pub fn serves(&self) -> bool {
        let steps = self.plan().map(|plan| plan.steps.as_slice()).unwrap_or_default();
        let opens = steps.iter().rposition(|step| matches!(step, Step::AwaitPods { .. } | Step::Uncordon));
        opens.is_some_and(|n| self.is_done(n))
    }

    /// Debts that are not paid yet, oldest first.
    pub fn debts(&self) -> Vec<Debt> {
        let mut debts: Vec<Debt> = Vec::new();
        for record in &self.records {
            match record {
                Record::Owed { debt } => {
                    // A later debt for the same thing takes the place of the earlier one.
                    debts.retain(|d| !d.concerns_the_same(debt));
                    debts.push(debt.clone());
                }
                Record::Paid { debt } => debts.retain(|d| !d.concerns_the_same(debt)),
                _ => {}
            }
        }
        debts
    }

    /// How the run ended, where it has.
    pub fn outcome(&self) -> Option<Outcome> {
        self.records.iter().rev().find_map(|r| match r {
            Record::Close { outcome, .. } => Some(*outcome),
            _ => None,
        })
    }

    /// How long its steps took together; what it waited for between them (a confirmation, hands) does not count.
    pub fn worked(&self) -> Duration {
        let steps = self.records.iter().filter_map(|r| if let Record::Done { ms, .. } = r { Some(*ms) } else { None });
        Duration::from_millis(steps.sum())
    }

    /// Boot id of the machine when the run began.
    pub fn first_boot(&self) -> Option<&str> {
        match self.records.first() {
            Some(Record::Open { boot_id, .. }) => Some(boot_id.as_str()),
            _ => None,
        }
    }
}
