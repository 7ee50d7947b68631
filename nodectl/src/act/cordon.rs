//! Cordon and uncordon. What an admin had set before the run is what undo restores.

use anyhow::{Result, bail};
use serde_json::Value;

use super::Context;
use crate::journal::Debt;
use crate::step::Before;

pub(super) fn before(cx: &mut Context) -> Result<Before> {
    Ok(Before::Unschedulable { value: cx.api.get_node()?["spec"]["unschedulable"].as_bool().unwrap_or(false) })
}

pub(super) fn set(cx: &mut Context, unschedulable: bool) -> Result<Value> {
    if !cx.api.set_unschedulable(unschedulable)? {
        bail!("the API server does not answer. To fix it: see that it is reachable from this node");
    }
    Ok(Value::Null)
}

pub(super) fn undo(cx: &mut Context, before: &Before) -> Result<()> {
    let Before::Unschedulable { value } = before else { return Ok(()) };
    let debt = Debt::Unschedulable { value: *value };
    if cx.api.set_unschedulable(*value)? { cx.no_longer_owed(&debt) } else { cx.owe(debt) }
}
