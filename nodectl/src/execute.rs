//! The one loop: read what is there, journal it, act, journal that it is done. The only place that changes a node.
//!
//! Forward and back use the same journal: undo goes newest first over what was begun, done or not.

use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::act::{self, Context};
use crate::journal::{Log, Record};
use crate::plan::Plan;
use crate::report::Progress;
use crate::step::{Before, Step};

/// A step that failed.
#[derive(Debug)]
pub struct StepFailed {
    /// Index into the plan.
    pub n: usize,
    /// The step in words.
    pub title: String,
    /// Why.
    pub error: anyhow::Error,
}

impl std::fmt::Display for StepFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "step {} ({}) failed: {:#}", self.n + 1, self.title, self.error)
    }
}

/// Goes forward from where the journal stands to the plan's end.
pub fn forward(plan: &Plan, log: &Log, cx: &mut Context, progress: &mut Progress) -> Result<(), StepFailed> {
    let released = plan.steps.iter().position(|s| matches!(s, Step::Release { .. })).is_some_and(|n| log.is_done(n));
    for (n, step) in plan.steps.iter().enumerate() {
        let done = log.is_done(n);
        if matches!(step, Step::Baseline { .. })
            && let Some(result) = log.result(n)
        {
            cx.baseline = result.clone();
        }
        // A hold ends with the process that owned it, and pods may have got the old CNI again since.
        if done && (released || !step.reasserted_on_resume()) {
            continue;
        }
        one_step(n, step, log.before(n).cloned(), cx, progress).map_err(|error| StepFailed {
            n,
            title: step.title(),
            error,
        })?;
    }
    Ok(())
}

fn one_step(n: usize, step: &Step, known: Option<Before>, cx: &mut Context, progress: &mut Progress) -> Result<()> {
    cx.stop.check()?;
    progress.begin(n, step);
    let started = Instant::now();
    let before = match known {
        Some(before) => before,
        None => {
            let before = act::before(step, cx).context("could not read what is there now")?;
            cx.journal.append(&Record::Begin { n, before: before.clone(), at: crate::clock::now() })?;
            before
        }
    };
    let outcome = act::apply(step, &before, cx);
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    match outcome {
        Ok(result) => {
            cx.journal.append(&Record::Done { n, ms, result })?;
            progress.end(n, step, ms);
            Ok(())
        }
        Err(error) => {
            progress.failed(n, step, ms);
            cx.journal.append(&Record::Failed { n, error: format!("{error:#}") })?;
            Err(error)
        }
    }
}

/// Undoes all that stands, newest first. Goes on past nothing: an undo that fails is for hands, and can be tried again.
pub fn backward(plan: &Plan, log: &Log, cx: &mut Context, progress: &mut Progress) -> Result<(), StepFailed> {
    cx.stop.mute();
    for n in log.standing().into_iter().rev() {
        let Some(step) = plan.steps.get(n) else { continue };
        let Some(before) = log.before(n) else { continue };
        progress.begin_undo(n, step);
        let started = Instant::now();
        let undone = act::undo(step, before, cx);
        let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let undone = undone.and_then(|()| cx.journal.append(&Record::Undone { n, ms }));
        match undone {
            Ok(()) => progress.end_undo(n, step, ms),
            Err(error) => {
                progress.undo_failed(n, step, ms);
                let title = step.undo_title().unwrap_or_else(|| step.title());
                return Err(StepFailed { n, title: format!("on the way back: {title}"), error });
            }
        }
    }
    Ok(())
}

/// Pays what is owed, in the order in which it can be; returns what could not be paid and why.
pub fn settle(log: &Log, cx: &mut Context, progress: &mut Progress) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for debt in act::in_order(&log.debts()) {
        progress.paying(&debt);
        match act::pay(&debt, cx) {
            Ok(()) => cx.journal.append(&Record::Paid { debt })?,
            Err(error) => {
                left.push(format!("{}: {error:#}", debt.describe()));
                break;
            }
        }
    }
    Ok(left)
}
