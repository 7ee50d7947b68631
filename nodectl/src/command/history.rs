//! `nodectl history`: the runs on this node.

use anyhow::Result;
use serde_json::{Value, json};

use super::settings::Settings;
use crate::failure::code;
use crate::host::Host;
use crate::journal::Log;
use crate::report;
use crate::run::Folders;

pub(super) fn run(host: &Host, settings: &Settings) -> Result<u8> {
    let runs = Folders::new(host)?.runs()?;
    let data: Vec<Value> = runs.iter().map(|(id, log)| entry(id, log)).collect();
    report::result(settings.output, &report::history_text(&runs), &json!({"runs": data}), false)?;
    Ok(code::DONE)
}

fn entry(id: &str, log: &Log) -> Value {
    let plan = log.plan();
    json!({
        "run": id, "from": plan.map(|p| p.from), "to": plan.map(|p| p.request.to),
        "outcome": log.outcome(), "owed": log.debts(),
    })
}
