//! Where an open run stands, from its journal. Pure.

use serde::{Deserialize, Serialize};

use super::{Log, Record};
use crate::clock;
use crate::cni::Cni;

/// Which way a run goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Course {
    /// To its target.
    Forward,
    /// To its start.
    Back,
    /// It is back at its start, and owes something.
    Owing,
    /// It is at its target, and goes back unless that is confirmed.
    Unconfirmed,
}

/// Where an open run stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The CNI that the node was on.
    pub from: Cni,
    /// The CNI that it is to be on; the same where the run takes the shim away.
    pub to: Cni,
    /// Which way it goes.
    pub course: Course,
    /// The step that was begun last, or is to be undone next, counted from 1; `None` where there is none.
    pub step: Option<usize>,
    /// How many steps its plan has.
    pub of: usize,
    /// That step in words.
    pub title: String,
    /// That step was done.
    pub done: bool,
    /// The journal's last time, RFC 3339.
    pub since: String,
    /// Why the last step that failed did.
    pub failed: Option<String>,
    /// What it owes, in words.
    pub owed: Vec<String>,
    /// By when it must be confirmed, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_by: Option<String>,
}

impl Log {
    /// Where the run stands; `None` where it has ended.
    pub fn position(&self) -> Option<Position> {
        let plan = self.plan().filter(|_| self.outcome().is_none())?;
        let begun =
            self.records.iter().rev().find_map(|r| if let Record::Begin { n, .. } = r { Some(*n) } else { None });
        let (course, at) = match (self.reverting(), self.is_undone()) {
            (false, _) if self.awaits_confirmation() => (Course::Unconfirmed, None),
            (false, _) => (Course::Forward, begun),
            (true, false) => (Course::Back, self.standing().last().copied()),
            (true, true) => (Course::Owing, None),
        };
        let step = at.and_then(|n| plan.steps.get(n));
        let title =
            step.map(|s| if course == Course::Back { s.undo_title().unwrap_or_else(|| s.title()) } else { s.title() });
        Some(Position {
            from: plan.from,
            to: plan.request.to,
            course,
            step: at.map(|n| n + 1),
            of: plan.steps.len(),
            title: title.unwrap_or_default(),
            done: course == Course::Forward && at.is_some_and(|n| self.is_done(n)),
            since: self.records.iter().rev().find_map(Record::at).map(clock::to_the_second).unwrap_or_default(),
            failed: self.records.iter().rev().find_map(|r| match r {
                Record::Failed { error, .. } => Some(error.clone()),
                _ => None,
            }),
            confirm_by: self.to_be_confirmed().map(str::to_owned),
            owed: self.debts().iter().map(super::Debt::describe).collect(),
        })
    }
}
