//! `nodectl revert`: undoes the open run from its journal, or switches back what the last closed run switched.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::fitting;
use super::migrate;
use super::settings::Settings;
use crate::cli::RevertArgs;
use crate::cni::Cni;
use crate::events::{self, Event};
use crate::failure::code;
use crate::host::Host;
use crate::journal::Outcome;
use crate::report;
use crate::request::Request;
use crate::run::{self, Folders, Lock, Options};

/// How long a nodectl that was told to stop may take to undo its run.
const TAKE_OVER: Duration = Duration::from_secs(600);

pub(super) fn run(host: &Host, args: &RevertArgs, settings: &Settings) -> Result<u8> {
    migrate::deadline(&args.run)?;
    if args.dry_run {
        return show(host, args, settings);
    }
    // Before the lock, too: a nodectl that has it is told to stop.
    if args.unconfirmed && unconfirmed(host)?.is_none() {
        return nothing("no run waits to be confirmed.", settings);
    }
    let _lock = if args.take_over { Lock::take_over(host, TAKE_OVER)? } else { Lock::take(host)? };
    if args.unconfirmed {
        let Some(id) = unconfirmed(host)? else {
            return nothing("the run that was to be confirmed was, or has taken itself back.", settings);
        };
        // Not before the lock: until then somebody may still confirm it.
        events::tell(Event::NotConfirmed, &id, &format!("run {id} was not confirmed in time"), &[]);
    }
    let folders = Folders::new(host)?;
    if let Some(id) = folders.open_run()? {
        if !args.run.yes {
            migrate::ask(&format!("Run {id} is open; all that it did is undone, newest first."), "Take it back?")?;
        }
        fitting::open_run(args, &id);
        let stop = migrate::listen(&args.run)?;
        let summary = run::revert_open(host, &id, &stop, migrate::options(&args.run, settings))?;
        // A run that was killed after its last record is closed by this, and only then taken back like any closed one.
        let log = folders.open_log(&id)?;
        if log.is_retirement() || log.outcome() != Some(Outcome::Switched) {
            report::result(settings.output, &report::run_text(&summary), &summary, true)?;
            return Ok(code::DONE);
        }
    }
    if args.take_over
        && let Some((id, log)) = folders.last(|_| true)?
        && log.outcome() == Some(Outcome::PutBack)
    {
        // The run that was stopped has undone itself. An older one, closed long ago, is not what was asked about.
        let text = format!("Run {id} was stopped and has taken itself back.\n");
        report::result(settings.output, &text, &json!({"outcome": "put-back", "run": id}), true)?;
        return Ok(code::DONE);
    }
    match last_switch(&folders, args, settings)? {
        Last::Nothing(why) => nothing(&why, settings),
        Last::Switch(id, request) => {
            let options = Options { takes_back: Some(id), ..migrate::options(&args.run, settings) };
            migrate::switch(host, &request, None, &args.run, settings, options)
        }
    }
}

/// What a revert without an open run takes back.
enum Last {
    /// Nothing, and why.
    Nothing(String),
    /// This run, by a switch the other way.
    Switch(String, Box<Request>),
}

fn last_switch(folders: &Folders, args: &RevertArgs, settings: &Settings) -> Result<Last> {
    let last = folders.last(|log| log.outcome() == Some(Outcome::Switched) && !log.is_retirement())?;
    let Some((id, log)) = last else { return Ok(Last::Nothing("no run has switched this node.".into())) };
    let plan = log.plan().with_context(|| format!("the journal of run {id} holds no plan"))?;
    // Asked a second time (by hand, by Ansible), the way back must not become the way there again.
    if log.takes_back() {
        let to = if plan.from == Cni::Calico { "" } else { " --to flannel" };
        return Ok(Last::Nothing(format!("the last run was taken back already. To switch again: nodectl migrate{to}")));
    }
    // A closed run is a new switch the other way: what others changed meanwhile is kept, pods born since are included.
    let request = Request { to: plan.from, ..settings.request_back(args, &plan.request) };
    fitting::way_back(args, request.strategy)?;
    Ok(Last::Switch(id, Box::new(request)))
}

/// The dry run. Without the lock: it may be asked while another nodectl is at work.
fn show(host: &Host, args: &RevertArgs, settings: &Settings) -> Result<u8> {
    let folders = Folders::at(host);
    if let Some(id) = folders.open_run()? {
        let text = format!("Run {id} is open; all that it did would be undone, newest first.\n");
        report::result(settings.output, &text, &json!({"outcome": "would-undo", "run": id}), false)?;
        return Ok(code::DONE);
    }
    match last_switch(&folders, args, settings)? {
        Last::Nothing(why) => nothing(&why, settings),
        Last::Switch(_, request) => migrate::show(host, &request, None, settings),
    }
}

/// The open run, where it is one that was to be confirmed and was not.
fn unconfirmed(host: &Host) -> Result<Option<String>> {
    let folders = Folders::at(host);
    let Some(id) = folders.open_run()? else { return Ok(None) };
    let waits = folders.open_log(&id)?.to_be_confirmed().is_some();
    Ok(waits.then_some(id))
}

fn nothing(why: &str, settings: &Settings) -> Result<u8> {
    let text = format!("Nothing to take back: {why}\n");
    report::result(settings.output, &text, &json!({"outcome": "nothing-to-do"}), false)?;
    Ok(code::DONE)
}
