//! Cordon and uncordon. What an admin had set before the run is what undo restores.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::Context;
use crate::journal::Debt;
use crate::step::{Before, Step};

pub(super) fn before(cx: &mut Context) -> Result<Before> {
    Ok(Before::Unschedulable { value: cx.api.get_node()?["spec"]["unschedulable"].as_bool().unwrap_or(false) })
}

pub(super) fn set(cx: &mut Context, unschedulable: bool) -> Result<Value> {
    if !cx.api.set_unschedulable(unschedulable)? {
        bail!("the API server does not answer. To fix it: see that it is reachable from this node");
    }
    Ok(Value::Null)
}

/// A node that was cordoned when this run cordoned it stays so: an admin may have been a moment faster.
pub(super) fn release(cx: &mut Context) -> Result<Value> {
    let cordon = cx.plan.steps.iter().position(|step| matches!(step, Step::Cordon));
    let log = cx.journal.log()?;
    match cordon.and_then(|n| log.before(n)) {
        Some(Before::Unschedulable { value: true }) => Ok(json!({ "left": "cordoned, as it was before" })),
        _ => set(cx, false),
    }
}

pub(super) fn undo(cx: &mut Context, before: &Before) -> Result<()> {
    let Before::Unschedulable { value } = before else { return Ok(()) };
    let debt = Debt::Unschedulable { value: *value };
    if cx.api.set_unschedulable(*value)? { cx.no_longer_owed(&debt) } else { cx.owe(debt) }
}
