//! `nodectl confirm`: keeps a switch that would else be taken back by itself.

use anyhow::Result;
use serde_json::json;

use super::migrate;
use super::settings::Settings;
use crate::cli::{ConfirmArgs, RunArgs};
use crate::failure::{Failure, code};
use crate::host::Host;
use crate::journal::Log;
use crate::report;
use crate::run::{self, Folders, Lock};
use crate::stop::Stop;

pub(super) fn run(host: &Host, args: &ConfirmArgs, settings: &Settings) -> Result<u8> {
    let _lock = Lock::take(host)?;
    let folders = Folders::new(host)?;
    let Some(id) = folders.open_run()? else {
        let text = "Nothing to confirm: no run is open.\n";
        report::result(settings.output, text, &json!({"outcome": "nothing-to-do"}), false)?;
        return Ok(code::DONE);
    };
    let log = folders.open_log(&id)?;
    ready(&id, &log, args.run.as_deref())?;
    if run::was_rebooted(&log)? {
        let why = "was not confirmed before the machine went down, and is taken back. To fix it: see `nodectl status`";
        return Err(Failure::Refused(format!("run {id} {why}")).into());
    }
    let stop = Stop::listen(None)?;
    let summary = run::confirm(host, &id, &stop, migrate::options(&RunArgs::default(), settings))?;
    report::result(settings.output, &report::run_text(&summary), &summary, true)?;
    Ok(code::DONE)
}

/// Only what is wholly done can be said to be good.
fn ready(id: &str, log: &Log, wanted: Option<&str>) -> Result<(), Failure> {
    let refused = |why: &str| Err(Failure::Refused(format!("run {id} {why}")));
    match wanted {
        Some(wanted) if wanted != id => {
            refused(&format!("is open, and not {wanted}; nothing was confirmed. To fix it: see `nodectl history`"))
        }
        _ if log.awaits_confirmation() => Ok(()),
        _ if log.reverting() => {
            refused("is on its way back; it is too late to confirm it. To fix it: see `nodectl status`")
        }
        _ if log.to_be_confirmed().is_some() => refused(
            "is not at its end yet; nothing was confirmed. To fix it: `nodectl resume` finishes it, then confirm it",
        ),
        _ => refused("is open and waits for no confirmation. To fix it: `nodectl resume` finishes it"),
    }
}
