//! `nodectl completions`: what a shell needs to complete the command line.

use anyhow::Result;
use clap_complete::Shell;
use serde_json::json;

use super::settings::Settings;
use crate::cli;
use crate::failure::code;
use crate::report;

pub(super) fn run(shell: Shell, settings: &Settings) -> Result<u8> {
    let script = cli::completions(shell);
    report::result(settings.output, &script, &json!({"script": script}), false)?;
    Ok(code::DONE)
}
