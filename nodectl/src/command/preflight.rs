//! `nodectl preflight`: the named checks, and nothing else.

use anyhow::Result;
use serde_json::{Value, json};

use super::look;
use super::migrate;
use super::settings::Settings;
use crate::cli::Switch;
use crate::facts::Facts;
use crate::failure::{Failure, code};
use crate::host::Host;
use crate::preflight::{self, Check};
use crate::report;
use crate::request::Request;

pub(super) fn run(host: &Host, args: &Switch, settings: &Settings) -> Result<u8> {
    let request = settings.asked(args)?;
    known_ignores(&request)?;
    let facts = look::look(host, request.strategy);
    let checks = preflight::checks(&facts, &request);
    let mut data = document(&facts, &checks);
    // What `migrate` would say: a node that is there needs no check.
    if migrate::is_there(&facts, &request) {
        data["outcome"] = json!("nothing-to-do");
        let text = format!("Nothing to do: this node is on {} already.\n", request.to);
        report::result(settings.output, &text, &data, false)?;
        return Ok(code::DONE);
    }
    report::result(settings.output, &report::preflight_text(&checks), &data, false)?;
    Ok(if preflight::passed(&checks) { code::DONE } else { code::REFUSED })
}

/// What the checks found, as data. `nodectl report` reads it.
pub(super) fn document(facts: &Facts, checks: &[Check]) -> Value {
    let node = facts.cluster.as_ref().map(|view| &view.node);
    json!({"node": node, "ready": preflight::passed(checks), "checks": checks})
}

/// A typing error in `--ignore` must not go unnoticed.
pub(super) fn known_ignores(request: &Request) -> Result<()> {
    let unknown = preflight::unknown_ignores(request);
    if unknown.is_empty() {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "--ignore {}: no check that can be ignored has this name. To fix it: use one of {}",
        unknown.join(", "),
        preflight::ignorable().join(", ")
    ))
    .into())
}
