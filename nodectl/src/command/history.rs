//! `nodectl history`: the runs on this node.

use anyhow::Result;
use serde_json::json;

use super::settings::Settings;
use crate::failure::code;
use crate::host::Host;
use crate::journal::Log;
use crate::report::{self, Past};
use crate::run::Folders;

pub(super) fn run(host: &Host, settings: &Settings) -> Result<u8> {
    let runs = runs(host)?;
    report::result(settings.output, &report::history_text(&runs), &json!({"runs": runs}), false)?;
    Ok(code::DONE)
}

/// The runs, oldest first.
pub(super) fn runs(host: &Host) -> Result<Vec<Past>> {
    let folders = Folders::at(host);
    let open = folders.open_run()?;
    Ok(folders.runs()?.into_iter().map(|(id, log)| past(id, log, open.as_deref())).collect())
}

fn past(id: String, log: Result<Log>, open: Option<&str>) -> Past {
    let is_open = open == Some(id.as_str());
    match log {
        Ok(log) => Past::of(id, &log, is_open),
        Err(error) => Past { unreadable: Some(format!("{error:#}")), ..Past::unknown(id, is_open) },
    }
}
