//! Driving a run to an end: forward and verified, or back and verified, or open with its debts named.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{Folders, Options, confirm as deadman, motd, owing};
use crate::act::{self, Api, Context};
use crate::events::{self, Event};
use crate::execute::{self, StepFailed, Unpaid};
use crate::facts::Facts;
use crate::failure::{Failure, Overtaken};
use crate::host::kube::Kube;
use crate::host::{Host, machine, systemd};
use crate::journal::{self, Journal, Log, Outcome, Record};
use crate::plan::Plan;
use crate::remedy::Told;
use crate::report::{Progress, RunSummary};
use crate::request::Strategy;
use crate::run_note::{RUN_NOTE_VERSION, RunNote, RunState};
use crate::step::UndoDue;
use crate::stop::{Stop, Stopped};
use crate::verify;

/// How long the node is given to look as it must, once every step is done.
const SETTLE: Duration = Duration::from_secs(30);
/// How long one request may take in a run, repetitions included.
const API_PATIENCE: Duration = Duration::from_secs(20);
/// On the way back an API server that does not answer within this is taken for dead.
const API_PATIENCE_BACK: Duration = Duration::from_secs(6);

/// A run that is being driven.
struct Run<'a> {
    folders: Folders,
    path: PathBuf,
    plan: &'a Plan,
    cx: Context<'a>,
    progress: Progress,
    options: Options,
}

/// Starts a new run of this plan.
pub fn start(host: &Host, plan: &Plan, facts: &Facts, stop: &Stop, options: Options) -> Result<RunSummary> {
    let folders = Folders::new(host)?;
    let id = crate::clock::run_id();
    folders.prune_backups()?;
    folders.keep("snapshots", &id, facts)?;
    let journal = folders.begin(
        &id,
        &Record::Open {
            format: journal::JOURNAL_FORMAT,
            tool: env!("CARGO_PKG_VERSION").into(),
            run: id.clone(),
            boot_id: machine::boot_id()?,
            at: crate::clock::now(),
            reason: options.reason.clone(),
            by: Some(options.by.clone()),
            takes_back: options.takes_back.clone(),
            plan: Box::new(plan.clone()),
        },
    )?;
    let confirm_within = options.confirm_within;
    let mut run = begun(Run::new(host, folders, &id, plan, journal, stop, options, API_PATIENCE))?;
    if let Some(within) = confirm_within {
        let (until, at) = (crate::clock::from_now(within), crate::clock::now());
        begun(run.cx.journal.append(&Record::Armed { until, at }))?;
    }
    motd::update(host);
    let what = match plan.is_retirement() {
        true => format!("{} without the shim", plan.from),
        false => format!("from {} to {}", plan.from, plan.request.to),
    };
    run.announce("NetworkSwitchBegan", false, &what);
    events::tell(Event::RunBegan, &id, &format!("a switch {what} was begun by {}", run.options.by), &[]);
    begun(run.go_forward())
}

/// Once a run is open, an error that says nothing else (a full disk, an unreadable journal) means: needs hands. The code for
/// "failed, nothing changed" would be a lie.
fn begun<T>(result: Result<T>) -> Result<T> {
    result.map_err(|error| match error.downcast_ref::<Failure>() {
        Some(_) => error,
        None => Failure::NeedsHands(
            Told::of_error(&error)
                .and("The run stays open. To fix it: mend that; `nodectl status` then tells where the run stands")
                .to_string(),
        )
        .into(),
    })
}

/// That the run was put back for this reason alone.
fn overtaken(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<Failure>() {
        Ok(Failure::PutBack(told)) => Failure::Overtaken(told).into(),
        Ok(other) => other.into(),
        Err(other) => other,
    }
}

/// Goes on with the open run: to its target, or, where it had turned back, to its start; then pays what it owes.
pub fn resume(host: &Host, id: &str, stop: &Stop, options: Options) -> Result<RunSummary> {
    let (folders, journal, log, plan) = begun(reopen(host, id))?;
    let mut run = begun(Run::new(host, folders, id, &plan, journal, stop, options, API_PATIENCE))?;
    begun(match log.outcome() {
        // Killed after its last record: only the open file is left to remove.
        Some(outcome) => run.finish(outcome),
        None if log.reverting() => run.go_back("resumed on its way back"),
        None => run.go_forward(),
    })
}

/// Confirms the open run, which is at its target, and closes it.
pub fn confirm(host: &Host, id: &str, stop: &Stop, options: Options) -> Result<RunSummary> {
    let (folders, mut journal, _, plan) = begun(reopen(host, id))?;
    // From here on it is kept. A timer that elapses now waits for the lock, and then finds nothing to take back.
    stop.mute();
    begun(journal.append(&Record::Confirmed { by: options.by.clone(), at: crate::clock::now() }))?;
    events::tell(Event::Confirmed, id, &format!("run {id} was confirmed by {}", options.by), &[]);
    let mut run = begun(Run::new(host, folders, id, &plan, journal, stop, options, API_PATIENCE))?;
    deadman::disarm(&run.log()?);
    begun(run.go_forward())
}

/// Takes the open run back.
pub fn revert_open(host: &Host, id: &str, stop: &Stop, options: Options) -> Result<RunSummary> {
    let (folders, journal, log, plan) = begun(reopen(host, id))?;
    let mut run = begun(Run::new(host, folders, id, &plan, journal, stop, options, API_PATIENCE_BACK))?;
    begun(match log.outcome() {
        Some(outcome) => run.finish(outcome),
        None => run.go_back("asked for with `nodectl revert`"),
    })
}

/// The open run's journal, ready to go on with, and its plan.
fn reopen(host: &Host, id: &str) -> Result<(Folders, Journal, Log, Plan)> {
    let folders = Folders::new(host)?;
    let (mut journal, log) = Journal::open(&folders.journal(id)).map_err(|error| folders.unreadable(id, &error))?;
    let plan = log.plan().cloned().with_context(|| format!("the journal of run {id} holds no plan"))?;
    journal.append(&Record::Attach {
        pid: std::process::id(),
        boot_id: machine::boot_id()?,
        at: crate::clock::now(),
    })?;
    Ok((folders, journal, log, plan))
}

impl<'a> Run<'a> {
    #[allow(clippy::too_many_arguments, reason = "one private constructor, called twice")]
    fn new(
        host: &'a Host,
        folders: Folders,
        id: &str,
        plan: &'a Plan,
        journal: Journal,
        stop: &'a Stop,
        options: Options,
        patience: Duration,
    ) -> Result<Run<'a>> {
        let kube = match Kube::for_node(host) {
            Ok(kube) => Some(kube.patience(patience)),
            Err(error) => {
                tracing::warn!("no kubeconfig of this node can be used: {error:#}");
                None
            }
        };
        let api = Api::new(kube, plan.node.clone());
        let progress = Progress::new(id, options.progress, plan.steps.len());
        let path = folders.journal(id);
        super::drafts::sweep_of(host, plan)?;
        let cx = Context::new(host, folders.of_run(id), api, stop, plan, journal);
        Ok(Run { path, cx, folders, plan, progress, options })
    }

    fn log(&self) -> Result<Log> {
        journal::read(&self.path)
    }

    fn go_forward(&mut self) -> Result<RunSummary> {
        self.note(RunState::Switching);
        let log = self.log()?;
        if let Err(error) = deadman::arm(&log) {
            let why = format!("nothing would take the run back if nobody confirmed it: {error:#}");
            return self.ended(!self.options.auto_revert, &why);
        }
        if let Err(failed) = execute::forward(self.plan, &log, &mut self.cx, &mut self.progress) {
            return self.ended_early(&failed);
        }
        let findings = self.settled(|facts, plan| match plan.is_retirement() {
            true => verify::retired(facts, plan),
            false => verify::findings(facts, &plan.prepared, plan.request.to, plan),
        });
        if !findings.is_empty() {
            let why = format!("the node is not as it must be after the last step: {}", findings.join("; "));
            return self.ended(!self.options.auto_revert, &why);
        }
        if self.log()?.awaits_confirmation() {
            return self.awaits_confirmation();
        }
        if let Err(failed) = execute::forward_to_the_end(self.plan, &self.log()?, &mut self.cx, &mut self.progress) {
            return self.ended_early(&failed);
        }
        self.finish(Outcome::Switched)
    }

    /// A step failed, or did not begin because the run was told to stop.
    fn ended_early(&mut self, failed: &StepFailed) -> Result<RunSummary> {
        let stopped = failed.error.downcast_ref::<Stopped>().is_some();
        let stay = if stopped { self.options.stay_open_on_stop } else { !self.options.auto_revert };
        // Whatever failed: kubelet and runtime go down with the machine. The boot-time units end the run, from any step.
        let ended = self.ended(stay || systemd::is_going_down(), &failed.to_string());
        if failed.error.downcast_ref::<Overtaken>().is_some() { ended.map_err(overtaken) } else { ended }
    }

    /// Takes the run back, unless it is to stay open. A node that serves pods again is not taken from them by itself, whether
    /// something failed or somebody said stop: they would lose their sandboxes, without an eviction.
    fn ended(&mut self, stay: bool, why: &str) -> Result<RunSummary> {
        if stay || self.log()?.serves() { self.stays_open(why) } else { self.failed(why) }
    }

    /// Takes a failed run back and says so with exit code 4.
    fn failed(&mut self, why: &str) -> Result<RunSummary> {
        let told = Told::of(why);
        self.progress.say(&format!("{}\nTaking it back:", told.what));
        let summary = self.go_back(why)?;
        let (cni, report) = (self.plan.from, summary.report);
        let state = match self.plan.is_retirement() {
            true => "The shim serves as before".to_owned(),
            false if self.plan.request.strategy == Strategy::InPlace => format!("The node is on {cni} as before"),
            false => format!("The node is on {cni} as before; pods that were evicted stay where they went"),
        };
        Err(Failure::PutBack(told.and(&state).and(&format!("Report: {report}")).to_string()).into())
    }

    fn stays_open(&mut self, why: &str) -> Result<RunSummary> {
        let log = self.log()?;
        execute::look_after_boots(self.plan, &log, &mut self.cx)?;
        events::tell(Event::StaysOpen, &self.cx.run.id, why, &[]);
        motd::update(self.cx.host);
        let state = match log.serves() {
            true => format!("The node serves on {}; the run stays open", self.plan.request.to),
            false => "The run stays open".to_owned(),
        };
        let told =
            Told::of(why).and(&state).and("To fix it: `nodectl resume` finishes it, `nodectl revert` takes it back");
        self.needs_hands(told.to_string())
    }

    /// A step whose undoing failed leaves the run to hands.
    fn not_back(&self, failed: &StepFailed, state: &str) -> Result<RunSummary> {
        let told =
            Told::of(&failed.to_string()).and(state).and("To fix it: mend the cause, then `nodectl revert` again");
        self.needs_hands(told.to_string())
    }

    /// The run stays as it is, and the Node says so.
    fn needs_hands(&self, why: String) -> Result<RunSummary> {
        self.note(RunState::Open);
        Err(Failure::NeedsHands(why).into())
    }

    /// All is done, and nobody has said yet that it is good.
    fn awaits_confirmation(&mut self) -> Result<RunSummary> {
        let until = self.log()?.to_be_confirmed().unwrap_or_default().to_owned();
        let sentence = format!(
            "{} is on {} now, and goes back by itself at {until} unless it is confirmed: `nodectl confirm`.",
            self.plan.node, self.plan.request.to
        );
        events::tell(Event::Unconfirmed, &self.cx.run.id, &sentence, &[]);
        self.note(RunState::Unconfirmed);
        motd::update(self.cx.host);
        self.summarise("unconfirmed", &sentence, Vec::new())
    }

    /// Undoes everything, then pays what can be paid.
    fn go_back(&mut self, why: &str) -> Result<RunSummary> {
        self.cx.api.on_the_way_back();
        if !self.log()?.reverting() {
            let at = crate::clock::now();
            self.cx.journal.append(&Record::Reverting { why: why.to_owned(), at })?;
        }
        self.note(RunState::TakingBack);
        let log = self.log()?;
        motd::update(self.cx.host);
        // From here on a signal is answered, and nothing but the machine's shutdown stops the way back.
        self.cx.stop.mute();
        act::watch_back(&mut self.cx)?;
        let held = execute::hold_again(self.plan, &log, &mut self.cx, &mut self.progress);
        let undone =
            held.and_then(|()| execute::backward(self.plan, &log, UndoDue::Now, &mut self.cx, &mut self.progress));
        if let Err(failed) = undone {
            return self.not_back(&failed, "The run stays open, part of the way back");
        }
        act::owe_kept_dels(&mut self.cx)?;
        let left = execute::settle(&mut self.cx, &mut self.progress)?;
        if !left.is_empty() {
            return self.owes(&left);
        }
        act::clean_again(&mut self.cx)?;
        let log = self.log()?;
        if let Err(failed) = execute::backward(self.plan, &log, UndoDue::Paid, &mut self.cx, &mut self.progress) {
            return self.not_back(&failed, "The run stays open, part of the way back");
        }
        let findings = self.settled(|facts, plan| match plan.is_retirement() {
            true => verify::not_retired(facts, plan),
            false => verify::put_back(facts, &plan.prepared, plan),
        });
        if !findings.is_empty() {
            return self.needs_hands(format!(
                "everything was undone, but the node is not as it was: {}. To fix it: mend that; `nodectl revert` then looks again and closes the run",
                findings.join("; ")
            ));
        }
        let log = self.log()?;
        if let Err(failed) = execute::backward(self.plan, &log, UndoDue::Verified, &mut self.cx, &mut self.progress) {
            return self.not_back(&failed, "The node is as it was, but the run stays open");
        }
        self.finish(Outcome::PutBack)
    }

    /// Ends with debts; the unit that pays them by itself is started.
    fn owes(&mut self, left: &[Unpaid]) -> Result<RunSummary> {
        let sentence = owing::sentence(self.plan.from, left, self.cx.api.is_dead());
        let summary = self.summarise("owes", &sentence, left.iter().map(Unpaid::to_string).collect())?;
        self.note(RunState::Owing);
        events::tell(Event::Owes, &self.cx.run.id, &sentence, &[]);
        motd::update(self.cx.host);
        let told = owing::told(&sentence, left, &owing::hand_over()).and(&format!("Report: {}", summary.report));
        Err(Failure::NeedsHands(told.to_string()).into())
    }

    /// Looks until nothing is found, or the time is up.
    fn settled(&self, look: impl Fn(&Facts, &Plan) -> Vec<String>) -> Vec<String> {
        let end = std::time::Instant::now() + SETTLE;
        loop {
            let findings = look(&crate::observe::node(self.cx.host), self.plan);
            if findings.is_empty() || std::time::Instant::now() >= end {
                return findings;
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    fn finish(&mut self, outcome: Outcome) -> Result<RunSummary> {
        if self.log()?.outcome().is_none() {
            self.cx.journal.append(&Record::Close { outcome, at: crate::clock::now() })?;
        }
        let (node, cni) = (&self.plan.node, self.plan.request.to);
        let (word, sentence) = match (outcome, self.plan.is_retirement()) {
            (Outcome::Switched, false) => ("switched", format!("{node} is on {cni} now.")),
            (Outcome::PutBack, false) => ("put-back", format!("{node} is on {} as before.", self.plan.from)),
            (Outcome::Switched, true) => ("retired", format!("{node} is on {cni} without the shim now.")),
            (Outcome::PutBack, true) => ("put-back", format!("{node} is on {cni} through the shim as before.")),
        };
        match outcome {
            // A node without the shim looks like one that never had it.
            _ if self.plan.is_retirement() => self.cx.api.note(None),
            Outcome::Switched => self.note(RunState::Switched),
            Outcome::PutBack => self.note(RunState::PutBack),
        }
        self.announce("NetworkSwitchEnded", outcome == Outcome::PutBack, &sentence);
        let event = if outcome == Outcome::PutBack { Event::PutBack } else { Event::Switched };
        events::tell(event, &self.cx.run.id, &sentence, &[]);
        deadman::disarm(&self.log()?);
        let summary = self.summarise(word, &sentence, owing::kept_dels(&self.cx.shim()))?;
        self.folders.keep("receipts", &self.cx.run.id, &self.log()?.records)?;
        self.folders.end()?;
        motd::update(self.cx.host);
        Ok(summary)
    }

    /// An Event on the Node, with the operator's reason.
    fn announce(&self, reason: &str, warning: bool, sentence: &str) {
        let why = self.options.reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default();
        self.cx.api.announce(reason, warning, &format!("nodectl: {sentence}{why}"));
    }

    /// An annotation on the Node: where the run stands now.
    fn note(&self, state: RunState) {
        self.cx.api.note(Some(&RunNote {
            version: RUN_NOTE_VERSION,
            run: self.cx.run.id.clone(),
            from: self.plan.from,
            to: self.plan.request.to,
            state,
            at: crate::clock::now(),
        }));
    }

    fn summarise(&self, outcome: &str, sentence: &str, owed: Vec<String>) -> Result<RunSummary> {
        let log = self.log()?;
        let mut summary = super::summary::summary(&log, self.plan, &self.cx.run.id);
        summary.outcome = outcome.to_owned();
        summary.sentence = sentence.to_owned();
        summary.owed = owed;
        summary.report = self.folders.keep("reports", &self.cx.run.id, &summary)?.display().to_string();
        Ok(summary)
    }
}
