//! `nodectl migrate`: preflight, plan, consent, run.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::look;
use super::settings::Settings;
use crate::cli::{MigrateArgs, OnStop, RunArgs};
use crate::facts::Facts;
use crate::failure::{Failure, code};
use crate::fault;
use crate::host::Host;
use crate::plan::{self, PLAN_FORMAT, Plan};
use crate::preflight;
use crate::report;
use crate::request::Request;
use crate::run::{self, Lock, Options};
use crate::stop::Stop;

pub(super) fn run(host: &Host, args: &MigrateArgs, settings: &Settings) -> Result<u8> {
    let saved = args.plan.as_deref().map(read_plan).transpose()?;
    let request = saved.as_ref().map_or_else(|| settings.request(&args.switch), |plan| plan.request.clone());
    if args.dry_run {
        let facts = look::look(host);
        let plan = decide(&facts, &request, saved)?;
        report::result(settings.output, &report::plan_text(&plan), &json!({"plan": plan}), false)?;
        return Ok(code::DONE);
    }
    let deadline = deadline(&args.run)?;
    if args.when_allowed {
        super::pace::wait(host, &request, deadline)?;
    }
    let _lock = Lock::take(host)?;
    switch(host, &request, saved, &args.run, settings)
}

/// The signals and the deadline. Only from here on does Ctrl-C not end nodectl at once: before, there is nothing to undo.
pub(super) fn listen(args: &RunArgs) -> Result<Stop> {
    Stop::listen(deadline(args)?)
}

/// The deadline, where one was given.
pub(super) fn deadline(args: &RunArgs) -> Result<Option<std::time::SystemTime>> {
    let deadline = args.deadline.as_deref().map(crate::clock::deadline).transpose();
    Ok(deadline.map_err(|e| Failure::Usage(format!("--deadline: {e}")))?)
}

/// Preflight, plan, consent, run; the lock is held by the caller.
pub(super) fn switch(
    host: &Host,
    request: &Request,
    saved: Option<Plan>,
    args: &RunArgs,
    settings: &Settings,
) -> Result<u8> {
    let facts = look::look(host);
    let checks = preflight::checks(&facts, request);
    super::preflight::known_ignores(&checks, request)?;
    if plan::current_cni(&facts) == Some(request.to) && facts.runs.open.is_none() {
        let text = format!("Nothing to do: this node is on {} already.\n", request.to);
        report::result(settings.output, &text, &json!({"outcome": "nothing-to-do"}), false)?;
        return Ok(code::DONE);
    }
    // Before preflight: it would name what is wrong with the node now, not what has changed since the plan was made.
    if let Some(saved) = &saved
        && let Ok(now) = plan::plan(&facts, request)
    {
        undrifted(saved, &now)?;
    }
    if !preflight::passed(&checks) {
        super::preflight::show(&facts, &checks, settings)?;
        bail!(Failure::Refused("preflight refused; nothing was changed".into()));
    }
    let plan = decide(&facts, request, saved)?;
    consent(&plan, args, "Switch this node?")?;
    let stop = listen(args)?;
    not_stopped_yet(&stop)?;
    let summary = run::start(host, &plan, &facts, &stop, options(args, settings))?;
    report::result(settings.output, &report::run_text(&summary), &summary, true)?;
    Ok(code::DONE)
}

/// Told to stop, or too late, before anything was begun.
fn not_stopped_yet(stop: &Stop) -> Result<()> {
    stop.check().map_err(|stopped| {
        Failure::Refused(format!(
            "{stopped} before it began; nothing was changed. To fix it: run it again, with a later --deadline"
        ))
        .into()
    })
}

/// The plan: made now, or the saved one if the node has not drifted from it.
fn decide(facts: &Facts, request: &Request, saved: Option<Plan>) -> Result<Plan> {
    let now = plan::plan(facts, request).map_err(|e| Failure::Refused(e.to_string()))?;
    let Some(saved) = saved else { return Ok(now) };
    undrifted(&saved, &now)?;
    Ok(saved)
}

/// An error that names each drift, unless the node is still as the saved plan found it.
fn undrifted(saved: &Plan, now: &Plan) -> Result<()> {
    let drift = match fault::plans_may_be_edited() {
        true => plan::facts_drift(&saved.basis, &now.basis),
        false => plan::drift(saved, now),
    };
    if drift.is_empty() {
        return Ok(());
    }
    Err(Failure::Refused(format!(
        "the node has drifted from the saved plan; nothing was changed:\n  {}\nTo fix it: make a new plan with `nodectl plan --out`",
        drift.join("\n  ")
    ))
    .into())
}

fn read_plan(path: &Path) -> Result<Plan> {
    let text = std::fs::read_to_string(path).with_context(|| format!("could not read the plan {}", path.display()))?;
    let value: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("the plan {} is not JSON", path.display()))?;
    if value["format"] != PLAN_FORMAT {
        bail!(
            "the plan {} has format {}, this nodectl reads format {PLAN_FORMAT}. To fix it: make it anew with `nodectl plan --out`",
            path.display(),
            value["format"]
        );
    }
    serde_json::from_value(value).with_context(|| format!("{} is not a plan", path.display()))
}

/// Shows the plan and asks, on a terminal; without one, `--yes` must have been said.
pub(super) fn consent(plan: &Plan, args: &RunArgs, question: &str) -> Result<()> {
    if args.yes {
        return Ok(());
    }
    ask(&report::plan_text(plan), question)
}

pub(super) fn ask(text: &str, question: &str) -> Result<()> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "this changes the node, and there is no terminal to ask on. To fix it: add --yes".into(),
        )
        .into());
    }
    let mut err = std::io::stderr().lock();
    write!(err, "{text}\n{question} [y/N] ").and_then(|()| err.flush()).context("could not ask")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("could not read the answer")?;
    if ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
        return Ok(());
    }
    Err(Failure::Refused("not confirmed; nothing was changed".into()).into())
}

/// How the run is driven.
pub(super) fn options(args: &RunArgs, settings: &Settings) -> Options {
    Options {
        reason: args.reason.clone(),
        auto_revert: !args.no_auto_revert,
        stay_open_on_stop: args.on_stop == OnStop::Resume,
        progress: settings.progress,
    }
}
