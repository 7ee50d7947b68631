//! The dead-man switch: a run that is taken back unless somebody confirms it in time.
//!
//! A transient timer of systemd's starts nodectl-deadman.service, so that neither the session that began the run nor kubelet nor
//! the API server is needed for it. A reboot takes the timer away; the boot-time unit then takes the run back.

use std::time::Duration;

use anyhow::Result;

use crate::failure::Failure;
use crate::host::{machine, systemd};
use crate::journal::Log;
use crate::plan::{DEADMAN_TIMER, DEADMAN_UNIT};

/// How long systemd may take to start or stop a timer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Refuses where nothing could take the run back: before anything is begun.
pub fn possible() -> Result<()> {
    let why = match systemd::unit(DEADMAN_UNIT) {
        Ok(Some(_)) => return Ok(()),
        Ok(None) if !systemd::available() => "this machine has no systemd that could take the run back".to_owned(),
        Ok(None) => format!("{DEADMAN_UNIT}, which would take the run back, is not installed"),
        Err(error) => format!("systemd cannot be asked: {error:#}"),
    };
    Err(Failure::Refused(format!(
        "--confirm-timeout: {why}; nothing was changed. To fix it: install nodectl from its package, or go without"
    ))
    .into())
}

/// Whether the machine has gone down since the run began, and with it the timer: the boot-time unit takes the run back.
pub fn was_rebooted(log: &Log) -> Result<bool> {
    Ok(log.first_boot() != Some(machine::boot_id()?.as_str()))
}

/// Whether nobody has confirmed the run in time, or before the machine went down.
pub fn is_too_late(log: &Log) -> Result<bool> {
    let Some(until) = log.to_be_confirmed() else { return Ok(false) };
    Ok(crate::clock::until(until).is_zero() || was_rebooted(log)?)
}

/// Starts the timer for the time that is left, unless it runs already.
pub(super) fn arm(log: &Log) -> Result<()> {
    let Some(until) = log.to_be_confirmed() else { return Ok(()) };
    if systemd::unit(DEADMAN_TIMER)?.is_some_and(|timer| timer.active == "active") {
        return Ok(());
    }
    let left = crate::clock::until(until).max(Duration::from_secs(1));
    let description = "nodectl: takes a switch back that is not confirmed in time";
    systemd::start_timer(DEADMAN_TIMER, description, left, PATIENCE)
}

/// Stops the timer of a run that was to be confirmed. One that stays finds nothing to take back.
pub(super) fn disarm(log: &Log) {
    if !log.records.iter().any(|record| matches!(record, crate::journal::Record::Armed { .. })) {
        return;
    }
    let stopped =
        systemd::unit(DEADMAN_TIMER).and_then(|timer| timer.map_or(Ok(()), |_| systemd::stop(DEADMAN_TIMER, PATIENCE)));
    if let Err(error) = stopped {
        tracing::warn!("{DEADMAN_TIMER} could not be stopped, and will find nothing to do: {error:#}");
    }
}
