//! The one loop: read what is there, journal it, act, journal that it is done. The only place that changes a node.
//!
//! Forward and back use the same journal: undo goes newest first over what was begun, done or not.

use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::act::{self, Context};
use crate::clock;
use crate::journal::{Debt, Log, Record};
use crate::plan::Plan;
use crate::remedy::Told;
use crate::report::Progress;
use crate::step::{Before, Step, UndoDue};

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
        let told = Told::of_error(&self.error);
        write!(f, "step {} ({}) failed: {told}", self.n + 1, self.title)
    }
}

/// Goes forward from where the journal stands, but for what is done when all is verified.
pub fn forward(plan: &Plan, log: &Log, cx: &mut Context, progress: &mut Progress) -> Result<(), StepFailed> {
    go(plan, log, |step| !step.done_last(), cx, progress)
}

/// Does the rest, once all is verified.
pub fn forward_to_the_end(plan: &Plan, log: &Log, cx: &mut Context, progress: &mut Progress) -> Result<(), StepFailed> {
    go(plan, log, Step::done_last, cx, progress)
}

fn go(
    plan: &Plan,
    log: &Log,
    is_due: impl Fn(&Step) -> bool,
    cx: &mut Context,
    progress: &mut Progress,
) -> Result<(), StepFailed> {
    let released = plan.steps.iter().position(|s| matches!(s, Step::Release { .. })).is_some_and(|n| log.is_done(n));
    for (n, step) in plan.steps.iter().enumerate().filter(|(_, step)| is_due(step)) {
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
    cx.at = n;
    progress.begin(n, step);
    let started = Instant::now();
    let before = match known {
        Some(before) => before,
        None => {
            let before = act::before(step, cx).context("could not read what is there now")?;
            cx.journal.append(&Record::Begin { n, before: before.clone(), at: clock::now_precisely() })?;
            before
        }
    };
    let outcome = act::apply(step, &before, cx);
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    match outcome {
        Ok(result) => {
            cx.journal.append(&Record::Done { n, ms, at: Some(clock::now_precisely()), result })?;
            progress.end(n, step, ms);
            Ok(())
        }
        Err(error) => {
            progress.failed(n, step, ms);
            let (told, result) = (Told::of_error(&error).to_string(), std::mem::take(&mut cx.found));
            match cx.journal.append(&Record::Failed { n, error: told, at: Some(clock::now_precisely()), result }) {
                Ok(()) => Err(error),
                // Both count: what failed, and why the journal does not say so.
                Err(unwritten) => Err(error.context(format!("{unwritten:#}"))),
            }
        }
    }
}

/// Undoes what stands and is due now, newest first. Goes on past nothing: an undo that fails is for hands, and can be tried
/// again.
pub fn backward(
    plan: &Plan,
    log: &Log,
    due: UndoDue,
    cx: &mut Context,
    progress: &mut Progress,
) -> Result<(), StepFailed> {
    for n in log.standing().into_iter().rev() {
        let Some(step) = plan.steps.get(n).filter(|step| step.undo_due() == due) else { continue };
        let Some(before) = log.before(n) else { continue };
        undo_one(n, step, before, true, cx, progress)?;
    }
    Ok(())
}

/// Undoes a step, and writes it down where that is not in the journal yet.
fn undo_one(
    n: usize,
    step: &Step,
    before: &Before,
    is_news: bool,
    cx: &mut Context,
    progress: &mut Progress,
) -> Result<(), StepFailed> {
    // Muted: it only answers a signal.
    let _ = cx.stop.check();
    cx.at = n;
    progress.begin_undo(n, step);
    let started = Instant::now();
    let undone = act::undo(step, before, cx);
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let result = std::mem::take(&mut cx.found);
    let news = Record::Undone { n, ms, at: Some(clock::now_precisely()), result };
    let undone = undone.and_then(|()| if is_news { cx.journal.append(&news) } else { Ok(()) });
    match undone {
        Ok(()) => {
            progress.end_undo(n, step, ms);
            Ok(())
        }
        Err(error) => {
            progress.undo_failed(n, step, ms);
            let title = step.undo_title().unwrap_or_else(|| step.title());
            Err(StepFailed { n, title: format!("on the way back: {title}"), error })
        }
    }
}

/// A hold ends with the process that owned it. Where an earlier way back had taken new pods from the new CNI and then died or
/// failed, others may have come to it since: they wait again, and lose their sandboxes, before anything else is undone.
pub fn hold_again(plan: &Plan, log: &Log, cx: &mut Context, progress: &mut Progress) -> Result<(), StepFailed> {
    let standing = log.standing();
    let find = |wanted: fn(&Step) -> bool| plan.steps.iter().position(wanted);
    let hold = find(|step| matches!(step, Step::Hold { .. })).filter(|n| standing.contains(n));
    let release = find(|step| matches!(step, Step::Release { .. })).filter(|n| !standing.contains(n));
    let (Some(_), Some(n)) = (hold, release) else { return Ok(()) };
    let (Some(step), Some(before)) = (plan.steps.get(n), log.before(n)) else { return Ok(()) };
    undo_one(n, step, before, false, cx, progress)
}

/// A run that stays open is looked after across a reboot: where its last step has disabled the units, that is taken back, and
/// done again when the run is resumed.
pub fn look_after_boots(plan: &Plan, log: &Log, cx: &mut Context) -> Result<()> {
    for n in log.standing().into_iter().rev() {
        if let Some(step @ Step::DisableBootUnits { .. }) = plan.steps.get(n)
            && let Some(before) = log.before(n)
        {
            act::undo(step, before, cx)?;
            let at = Some(clock::now_precisely());
            cx.journal.append(&Record::Undone { n, ms: 0, at, result: serde_json::Value::Null })?;
        }
    }
    Ok(())
}

/// A debt that could not be paid.
#[derive(Debug)]
pub struct Unpaid {
    /// What.
    pub debt: Debt,
    /// Why; `None` where it waits for another debt.
    pub why: Option<Told>,
}

impl std::fmt::Display for Unpaid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.debt.describe())?;
        self.why.as_ref().map_or(Ok(()), |why| write!(f, " ({})", why.what))
    }
}

/// Pays what is owed, in the order in which it can be, past what fails; returns what is left. Paying may make a debt known.
pub fn settle(cx: &mut Context, progress: &mut Progress) -> Result<Vec<Unpaid>> {
    let mut left: Vec<Unpaid> = Vec::new();
    loop {
        let is_new = |debt: &Debt| !left.iter().any(|unpaid| unpaid.debt.concerns_the_same(debt));
        let Some(debt) = Debt::in_order(cx.journal.log()?.debts()).into_iter().find(is_new) else {
            return Ok(left);
        };
        if left.iter().any(|unpaid| debt.waits_for(&unpaid.debt)) {
            left.push(Unpaid { debt, why: None });
            continue;
        }
        progress.paying(&debt);
        match act::pay(&debt, cx) {
            Ok(()) => cx.journal.append(&Record::Paid { debt })?,
            Err(error) => left.push(Unpaid { debt, why: Some(Told::of_error(&error)) }),
        }
    }
}
