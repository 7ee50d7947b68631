//! `nodectl migrate`: preflight, plan, consent, run.

use std::fs::OpenOptions;
use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::json;

use super::look;
use super::settings::Settings;
use crate::cli::{MigrateArgs, OnStop, RunArgs};
use crate::facts::Facts;
use crate::failure::{Failure, code};
use crate::fault;
use crate::host::{Host, machine};
use crate::plan::{self, Arrival, PLAN_FORMAT, Plan};
use crate::preflight::{self, Check};
use crate::remedy::Told;
use crate::report;
use crate::request::Request;
use crate::run::{self, Folders, Lock, Options};
use crate::stop::Stop;
use crate::window;

/// How often a plan that pods have overtaken is made anew.
const OVERTAKEN: u32 = 3;

pub(super) fn run(host: &Host, args: &MigrateArgs, settings: &Settings) -> Result<u8> {
    let saved = args.plan.as_deref().map(read_plan).transpose()?;
    let request = match &saved {
        Some(plan) => plan.request.clone(),
        None => settings.asked(&args.switch)?,
    };
    if args.dry_run {
        return show(host, &request, saved.as_ref(), settings);
    }
    let deadline = deadline(&args.run)?;
    let confirm_within = args.confirm_timeout.or(settings.config.confirm_timeout);
    if confirm_within.is_some() {
        run::can_be_confirmed()?;
    }
    if args.when_allowed || settings.config.when_allowed == Some(true) {
        super::pace::wait(host, &request, deadline)?;
    }
    let _lock = Lock::take(host)?;
    let options = Options { confirm_within, ..options(&args.run, settings) };
    switch(host, &request, saved, &args.run, settings, options)
}

/// What [`switch`] would do; changes nothing.
pub(super) fn show(host: &Host, request: &Request, saved: Option<&Plan>, settings: &Settings) -> Result<u8> {
    match decide(host, request, saved)? {
        Decision::There => there(request, settings),
        Decision::Refused(facts, checks) => refused(&facts, &checks, settings),
        Decision::Go(go) => {
            let text = format!("{}{}", report::plan_text(&go.plan), report::warnings_text(&go.checks));
            let data = json!({"plan": go.plan, "checks": go.checks});
            report::result(settings.output, &text, &data, false)?;
            Ok(code::DONE)
        }
    }
}

/// The signals and the deadline. Only from here on does Ctrl-C not end nodectl at once: before, there is nothing to undo.
pub(super) fn listen(args: &RunArgs) -> Result<Stop> {
    Stop::listen(deadline(args)?)
}

/// The deadline, where one was given.
pub(super) fn deadline(args: &RunArgs) -> Result<Option<SystemTime>> {
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
    options: Options,
) -> Result<u8> {
    let now = || decided(host, request, saved.as_ref(), settings);
    let mut go = match now()? {
        Ok(go) => go,
        Err(code) => return Ok(code),
    };
    if !args.yes {
        ask(&format!("{}{}", report::plan_text(&go.plan), report::warnings_text(&go.checks)), "Switch this node?")?;
        // Whoever is asked may think for an hour: a pod came, an admin cordoned the node. What was shown is what is done.
        go = match now()? {
            Ok(now) => {
                unchanged(&go.plan, &now.plan)?;
                now
            }
            Err(code) => return Ok(code),
        };
    }
    // A switch that begins in a window ends in it, or is taken back.
    let window = window::ends(&request.windows, crate::clock::unix_seconds());
    let end = deadline(args)?.into_iter().chain(window).min();
    let mut tries = OVERTAKEN;
    let summary = loop {
        let stop = Stop::listen(end)?;
        not_stopped_yet(&stop)?;
        can_end_by(end, run::shortest(&Folders::at(host).runs()?, request))?;
        match run::start(host, &go.plan, &go.facts, &stop, options.clone()) {
            Err(error) if tries > 0 && saved.is_none() && is_overtaken(&error) => {
                tracing::warn!("{}; it is planned again", Told::of(&error.to_string()).what);
                tries -= 1;
                // The next run's name has its second in it, and our pid.
                std::thread::sleep(Duration::from_secs(1));
                go = match now()? {
                    Ok(go) => go,
                    Err(code) => return Ok(code),
                };
            }
            ended => break ended?,
        }
    };
    report::result(settings.output, &report::run_text(&summary), &summary, true)?;
    Ok(code::DONE)
}

/// A plan, or the exit code where there is nothing to do or preflight says no, and that was said.
fn decided(
    host: &Host,
    request: &Request,
    saved: Option<&Plan>,
    settings: &Settings,
) -> Result<std::result::Result<Box<Go>, u8>> {
    match decide(host, request, saved)? {
        Decision::There => there(request, settings).map(Err),
        Decision::Refused(facts, checks) => refused(&facts, &checks, settings).map(Err),
        Decision::Go(go) => Ok(Ok(go)),
    }
}

/// Whether the run was put back since pods came that its plan did not have.
fn is_overtaken(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<Failure>(), Some(Failure::Overtaken(_)))
}

/// What comes of a request on this node.
enum Decision {
    /// Nothing to do.
    There,
    /// Preflight says no.
    Refused(Box<Facts>, Vec<Check>),
    /// A plan.
    Go(Box<Go>),
}

/// A plan that may be carried out, and what it was made from.
struct Go {
    facts: Facts,
    checks: Vec<Check>,
    plan: Plan,
}

/// Looks and decides; changes nothing.
fn decide(host: &Host, request: &Request, saved: Option<&Plan>) -> Result<Decision> {
    super::preflight::known_ignores(request)?;
    let facts = look::look(host, request.strategy);
    if is_there(&facts, request) {
        return Ok(Decision::There);
    }
    let checks = preflight::checks(&facts, request);
    let now = plan::plan(&facts, request);
    // Before preflight: it would name what is wrong with the node now, not what has changed since the plan was made.
    if let (Some(saved), Ok(now)) = (saved, &now) {
        undrifted(saved, now)?;
    }
    if !preflight::passed(&checks) {
        return Ok(Decision::Refused(Box::new(facts), checks));
    }
    let now = now.map_err(|e| Failure::Refused(e.to_string()))?;
    let plan = saved.cloned().unwrap_or(now);
    Ok(Decision::Go(Box::new(Go { facts, checks, plan })))
}

/// Whether the node is where it is wanted, with no run open.
pub(super) fn is_there(facts: &Facts, request: &Request) -> bool {
    plan::arrival(facts, request.to) == Arrival::There && facts.runs.open.is_none()
}

fn there(request: &Request, settings: &Settings) -> Result<u8> {
    let text = format!("Nothing to do: this node is on {} already.\n", request.to);
    report::result(settings.output, &text, &json!({"outcome": "nothing-to-do"}), false)?;
    Ok(code::DONE)
}

/// The checks are the result, and say what to mend.
fn refused(facts: &Facts, checks: &[Check], settings: &Settings) -> Result<u8> {
    let mut data = super::preflight::document(facts, checks);
    data["outcome"] = json!("refused");
    report::result(settings.output, &report::preflight_text(checks), &data, false)?;
    Err(Failure::Refused("preflight refused; nothing was changed. To fix it: mend what failed above".into()).into())
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

/// A switch that must be taken back half-way costs the pods more than one that was never begun.
fn can_end_by(end: Option<SystemTime>, needs: Duration) -> Result<()> {
    let Some(left) = end.map(|end| end.duration_since(SystemTime::now()).unwrap_or_default()) else { return Ok(()) };
    if left >= needs {
        return Ok(());
    }
    Err(Failure::Refused(format!(
        "this switch cannot end in time: {} s are left to its deadline or to the end of its maintenance window, and such a \
         switch takes {} s at the very least; nothing was changed. To fix it: run it again with a later --deadline, or when the \
         next window begins",
        left.as_secs(),
        needs.as_secs()
    ))
    .into())
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

/// An error that names what has changed between the question and the answer.
pub(super) fn unchanged(shown: &Plan, now: &Plan) -> Result<()> {
    let drift = plan::drift(shown, now);
    if drift.is_empty() { Ok(()) } else { Err(changed_since_asked(&drift)) }
}

/// What was consented to is not what would be done.
pub(super) fn changed_since_asked(changes: &[String]) -> anyhow::Error {
    Failure::Refused(format!(
        "this node is not as it was when the question was asked; nothing was changed:\n  {}\nTo fix it: run the command \
         again, and see what it shows now",
        changes.join("\n  ")
    ))
    .into()
}

fn read_plan(path: &Path) -> Result<Plan> {
    const ANEW: &str = "To fix it: make it anew with `nodectl plan --out`";
    let path_shown = path.display();
    let text =
        std::fs::read_to_string(path).map_err(|e| anyhow!("could not read the plan {path_shown}: {e}. {ANEW}"))?;
    let value: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| anyhow!("the plan {path_shown} is not JSON: {e}. {ANEW}"))?;
    if value["format"] != PLAN_FORMAT {
        bail!("the plan {path_shown} has format {}, this nodectl reads format {PLAN_FORMAT}. {ANEW}", value["format"]);
    }
    serde_json::from_value(value).map_err(|e| anyhow!("{path_shown} is not a plan: {e}. {ANEW}"))
}

/// Asks on a terminal, with what is to be known first; without one, `--yes` must have been said.
pub(super) fn ask(text: &str, question: &str) -> Result<()> {
    let no_terminal =
        || Failure::Usage("this changes the node, and there is no terminal to ask on. To fix it: add --yes".to_owned());
    if !std::io::stdin().is_terminal() {
        return Err(no_terminal().into());
    }
    // A question in a log file would be waited on for ever, with the lock held.
    let mut terminal: Box<dyn Write> = match std::io::stderr().is_terminal() {
        true => Box::new(std::io::stderr()),
        false => Box::new(OpenOptions::new().write(true).open("/dev/tty").map_err(|_| no_terminal())?),
    };
    write!(terminal, "{text}\n{question} [y/N] ").and_then(|()| terminal.flush()).context("could not ask")?;
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
        takes_back: None,
        by: machine::operator(),
        confirm_within: None,
    }
}
