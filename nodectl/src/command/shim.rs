//! `nodectl shim`: what the CNI plugin in front of both CNIs remembers, the DELs that it still has to do, and its removal.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::migrate;
use super::settings::Settings;
use crate::cli::{RetireArgs, ShimArgs, ShimCommand};
use crate::facts::Facts;
use crate::failure::{Failure, code};
use crate::host::{Host, files};
use crate::plan::{self, PACKAGED_SHIM, Plan};
use crate::reap::Reaper;
use crate::report;
use crate::run::{self, Folders, Lock};
use crate::shim::ShimView;

pub(super) fn run(host: &Host, args: &ShimArgs, settings: &Settings) -> Result<u8> {
    match &args.command {
        ShimCommand::Status => status(host, settings),
        ShimCommand::Reap { older_than } => reap(host, Duration::from_secs(*older_than), settings),
        ShimCommand::Upgrade { dry_run } => upgrade(host, *dry_run, settings),
        ShimCommand::Retire(args) => retire(host, args, settings),
    }
}

fn status(host: &Host, settings: &Settings) -> Result<u8> {
    let view = crate::observe::shim_view(host, &crate::observe::node(host))?;
    let (problems, needed_for) = (view.problems(), view.needed_for());
    let code = if problems.is_empty() { code::DONE } else { code::NEEDS_HANDS };
    let text = report::shim_text(&view, cni_store::file::now_ms());
    report::result(
        settings.output,
        &text,
        &json!({"shim": view, "problems": problems, "needed_for": needed_for}),
        false,
    )?;
    Ok(code)
}

fn reap(host: &Host, older_than: Duration, settings: &Settings) -> Result<u8> {
    let facts = crate::observe::node(host);
    let reaper = Reaper {
        paths: cni_store::Paths::under(host.root()),
        backends: crate::observe::backends(&facts),
        cni_path: host.path(&facts.files.bin_dir).display().to_string(),
        living: facts.runtime.as_ref().map(|runtime| runtime.sandboxes.iter().map(|s| s.id.clone()).collect()),
        older_than,
        open_run: facts.runs.open.as_deref(),
    };
    let reaped = reaper.run()?;
    let changed = !reaped.finished.is_empty();
    report::result(settings.output, &report::reaped_text(&reaped), &reaped, changed)?;
    if reaped.left.is_empty() {
        return Ok(code::DONE);
    }
    let n = crate::step::words::count(reaped.left.len(), "DEL");
    Err(Failure::NeedsHands(format!(
        "{n} could not be finished. To fix it: mend what is named above; then run this again"
    ))
    .into())
}

/// Not while a run is open: one may have put that binary there, and puts back the one of before when it is taken back.
fn upgrade(host: &Host, dry_run: bool, settings: &Settings) -> Result<u8> {
    let _lock = Lock::take(host)?;
    let facts = crate::observe::node(host);
    let view = crate::observe::shim_view(host, &facts)?;
    let refused = |why: String| Failure::Refused(format!("the shim stays as it is: {why}"));
    if let Some(run) = &facts.runs.open {
        let why = format!("run {run} is open. To fix it: `nodectl resume` finishes it, `nodectl revert` takes it back");
        return Err(refused(why).into());
    }
    if view.installed && !facts.shim.packaged {
        return Err(refused(format!("{PACKAGED_SHIM} is missing. To fix it: install nodectl's package again")).into());
    }
    let binary = &view.binary;
    let (outcome, text) = if !view.installed {
        let why = "the shim is not in front of this node's CNI; a switch installs the packaged one";
        ("nothing-to-do", format!("Nothing to do: {why}.\n"))
    } else if view.has_binary && !view.outdated {
        ("nothing-to-do", format!("Nothing to do: {binary} is the packaged cni-shim.\n"))
    } else if dry_run {
        ("would-upgrade", format!("{PACKAGED_SHIM} would be copied to {binary}.\n"))
    } else {
        // Renamed into place: a call at this moment keeps its file, and none sees half of one.
        files::copy_atomic(&host.path(PACKAGED_SHIM), &host.path(binary), Some(0o755))?;
        ("upgraded", format!("{binary} is the packaged cni-shim now. Pods were not touched.\n"))
    };
    let changed = outcome == "upgraded";
    report::result(settings.output, &text, &json!({"outcome": outcome, "binary": binary}), changed)?;
    Ok(code::DONE)
}

fn retire(host: &Host, args: &RetireArgs, settings: &Settings) -> Result<u8> {
    migrate::deadline(&args.run)?;
    let _lock = Lock::take(host)?;
    let mut facts = crate::observe::node(host);
    let view = crate::observe::shim_view(host, &facts)?;
    if !view.installed && facts.runs.open.is_none() {
        let text = "Nothing to do: the shim is not in front of this node's CNI.\n";
        report::result(settings.output, text, &json!({"outcome": "nothing-to-do"}), false)?;
        return Ok(code::DONE);
    }
    let plan = decide(host, &facts, &view)?;
    if args.dry_run {
        report::result(settings.output, &report::plan_text(&plan), &json!({"plan": plan}), false)?;
        return Ok(if args.detailed_exitcode { code::PENDING } else { code::DONE });
    }
    if !args.run.yes {
        migrate::ask(&report::plan_text(&plan), "Take the shim away?")?;
        facts = crate::observe::node(host);
        let view = crate::observe::shim_view(host, &facts)?;
        migrate::unchanged(&plan, &decide(host, &facts, &view)?)?;
    }
    let stop = migrate::listen(&args.run)?;
    let summary = run::start(host, &plan, &facts, &stop, migrate::options(&args.run, settings))?;
    report::result(settings.output, &report::run_text(&summary), &summary, true)?;
    Ok(code::DONE)
}

/// The plan, or why there is none: what still needs the shim, a sentence each.
fn decide(host: &Host, facts: &Facts, view: &ShimView) -> Result<Plan> {
    let refused = |why: String| Failure::Refused(format!("the shim stays: {why}"));
    if let Some(run) = &facts.runs.open {
        return Err(refused(format!(
            "run {run} is open. To fix it: `nodectl resume` finishes it, `nodectl revert` takes it back"
        ))
        .into());
    }
    let needs = view.needed_for();
    if !needs.is_empty() {
        return Err(refused(needs.join("\n  ")).into());
    }
    let (Some(cni), Some(native)) = (view.cni, &view.native) else {
        return Err(
            refused("it is not clear which CNI the node is on. To fix it: see `nodectl shim status`".into()).into()
        );
    };
    let last = last_switch(host)?.context(
        "no closed run of this node is left in /var/lib/nodectl/journal, and without one a run cannot be opened. To fix it: \
         put the folder back from a backup",
    )?;
    Ok(plan::retire(facts, view, cni, native, last.node, last.prepared))
}

/// The plan of the last run that this node has seen.
fn last_switch(host: &Host) -> Result<Option<Plan>> {
    Ok(Folders::at(host).last(|_| true)?.and_then(|(_, log)| log.plan().cloned()))
}
