//! `nodectl preflight`: the named checks, and nothing else.

use anyhow::Result;
use serde_json::json;

use super::look;
use super::settings::Settings;
use crate::cli::Switch;
use crate::facts::Facts;
use crate::failure::{Failure, code};
use crate::host::Host;
use crate::preflight::{self, Check};
use crate::report;
use crate::request::Request;

pub(super) fn run(host: &Host, args: &Switch, settings: &Settings) -> Result<u8> {
    let request = settings.request(args);
    let facts = look::look(host);
    let checks = preflight::checks(&facts, &request);
    known_ignores(&checks, &request)?;
    show(&facts, &checks, settings)?;
    Ok(if preflight::passed(&checks) { code::DONE } else { code::REFUSED })
}

/// What the checks found, as the command's result. `nodectl report` reads it.
pub(super) fn show(facts: &Facts, checks: &[Check], settings: &Settings) -> Result<()> {
    let node = facts.cluster.as_ref().map(|view| &view.node);
    let data = json!({"node": node, "ready": preflight::passed(checks), "checks": checks});
    report::result(settings.output, &report::preflight_text(checks), &data, false)
}

/// A typing error in `--ignore` must not go unnoticed.
pub(super) fn known_ignores(checks: &[Check], request: &Request) -> Result<()> {
    let unknown = preflight::unknown_ignores(checks, request);
    if unknown.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = checks.iter().map(|c| c.name.as_str()).collect();
    Err(Failure::Usage(format!(
        "--ignore {}: no check that can be ignored has this name; there are: {}",
        unknown.join(", "),
        names.join(", ")
    ))
    .into())
}
