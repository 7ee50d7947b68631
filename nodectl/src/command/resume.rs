//! `nodectl resume`: finishes the open run, or pays what it owes; and what the boot-time units do.

use anyhow::{Context, Result};
use cni_store::state::{Mode, State};
use serde_json::json;

use super::migrate;
use super::settings::Settings;
use crate::cli::{BootPhase, ResumeArgs};
use crate::cni::Cni;
use crate::failure::{Failure, code};
use crate::host::Host;
use crate::journal::Log;
use crate::plan::shim_backend;
use crate::report;
use crate::run::{self, Folders, Lock};
use crate::step::Step;
use crate::unsynced;

pub(super) fn run(host: &Host, args: &ResumeArgs, settings: &Settings) -> Result<u8> {
    let stop = migrate::listen(&args.run)?;
    let _lock = Lock::take(host)?;
    let folders = Folders::new(host)?;
    let Some(id) = folders.open_run()? else {
        report::result(
            settings.output,
            "Nothing to resume: no run is open.\n",
            &json!({"outcome": "nothing-to-do"}),
            false,
        )?;
        return Ok(code::DONE);
    };
    if args.at_boot == Some(BootPhase::Files) {
        return before_kubelet(host, &folders, &id, settings);
    }
    let options = migrate::options(&args.run, settings);
    // Paying debts is what was asked for then.
    let log = folders.open_log(&id)?;
    let owes_only = log.is_undone();
    let settles = args.at_boot == Some(BootPhase::Settle);
    let late = run::is_too_late(&log)?;
    if settles && !late && log.awaits_confirmation() {
        let text = format!("Run {id} waits to be confirmed; nothing is to be done.\n");
        report::result(settings.output, &text, &json!({"outcome": "unconfirmed"}), false)?;
        return Ok(code::DONE);
    }
    let back = settles && (late || !is_released(&log)?);
    let summary = if back {
        // The machine went down in mid-switch: the way back is the one that needs the least.
        run::revert_open(host, &id, &stop, options)
    } else {
        run::resume(host, &id, &stop, options)
    };
    let summary = summary?;
    report::result(settings.output, &report::run_text(&summary), &summary, true)?;
    match summary.outcome.as_str() {
        "put-back" if !back && !owes_only && args.at_boot.is_none() => {
            Err(Failure::PutBack(format!("run {id} was on its way back, and the node is as it was before")).into())
        }
        _ => Ok(code::DONE),
    }
}

/// Whether pods get the CNI that was asked for, so that the run goes on to its end.
fn is_released(log: &Log) -> Result<bool> {
    let plan = log.plan().context("the journal holds no plan")?;
    let release = plan.steps.iter().position(|s| matches!(s, Step::Release { .. }));
    Ok(!log.reverting() && release.is_some_and(|n| log.is_done(n)))
}

/// Before kubelet starts: links, namespaces and /run are new, so only files count. The shim's state is made to name one
/// CNI, the one that the rest of the run will end on; a hold would keep every pod waiting for an owner that is gone.
fn before_kubelet(host: &Host, folders: &Folders, id: &str, settings: &Settings) -> Result<u8> {
    let log = folders.open_log(id)?;
    let plan = log.plan().context("the journal holds no plan")?;
    let cni: Cni = if is_released(&log)? && !run::is_too_late(&log)? { plan.request.to } else { plan.from };
    let paths = cni_store::Paths::under(host.root());
    let state = State::load(&paths)?;
    let changed = state.is_some_and(|s| s.mode != Mode::from(shim_backend(cni)));
    if changed {
        State::routed(shim_backend(cni)).store(&paths)?;
    }
    let torn = unsynced::remove_empty(host).unwrap_or_else(|error| {
        tracing::warn!("files that a power cut may have left empty are not removed: {error:#}");
        Vec::new()
    });
    run::update_motd(host);
    let removed = match torn.len() {
        0 => String::new(),
        _ => format!("Removed, since a power cut has left them empty: {}.\n", torn.join(", ")),
    };
    let text = format!("Run {id} is open; new pods get {cni} until it is settled.\n{removed}");
    let data = json!({"outcome": "open", "cni": cni, "removed": torn});
    report::result(settings.output, &text, &data, changed || !torn.is_empty())?;
    Ok(code::DONE)
}
