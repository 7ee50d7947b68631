//! Enablement of the boot-time units: they take care of a reboot in mid-run, and are on only while a run is open.

use anyhow::Result;
use serde_json::Value;

use super::Context;
use crate::host::systemd;
use crate::step::Before;
use crate::unsynced;

pub(super) fn before(_cx: &mut Context, units: &[String]) -> Result<Before> {
    let mut enabled = Vec::new();
    for name in units {
        if systemd::unit(name)?.is_some_and(|u| u.enabled == "enabled") {
            enabled.push(name.clone());
        }
    }
    Ok(Before::Units { enabled })
}

pub(super) fn enable(_cx: &mut Context, units: &[String]) -> Result<Value> {
    systemd::enable(&known(units)?)?;
    Ok(Value::Null)
}

pub(super) fn disable(cx: &mut Context, units: &[String]) -> Result<Value> {
    no_more_boots(cx, &known(units)?)?;
    Ok(Value::Null)
}

pub(super) fn undo(cx: &mut Context, units: &[String], before: &Before) -> Result<()> {
    let Before::Units { enabled } = before else { return Ok(()) };
    let (on, off): (Vec<String>, Vec<String>) = known(units)?.into_iter().partition(|u| enabled.contains(u));
    systemd::enable(&on)?;
    no_more_boots(cx, &off)
}

/// From here on nobody clears up after a power cut.
fn no_more_boots(cx: &Context, units: &[String]) -> Result<()> {
    if let Err(error) = unsynced::bring_to_disk(cx.host) {
        tracing::warn!("what the CNI plugins have written for new pods may not outlive a power cut: {error:#}");
    }
    systemd::disable(units)
}

/// Units that are installed: without the package (a copied binary) there are none, and a reboot in mid-run then waits for
/// `nodectl resume` by hand.
fn known(units: &[String]) -> Result<Vec<String>> {
    let mut known = Vec::new();
    for name in units {
        if systemd::unit(name)?.is_some() {
            known.push(name.clone());
        }
    }
    Ok(known)
}
