//! Stopping the sandboxes of one CNI through CRI: the runtime runs their DEL, which the shim routes by record.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use cni_shim::record::Record;
use cni_shim::state::State;
use serde_json::{Value, json};

use super::{Context, attachment, shim};
use crate::cni::Cni;
use crate::facts::Sandbox;
use crate::plan::shim_backend;

/// A DEL has 45 s in the shim; a few may have to be tried again.
const LIMIT: Duration = Duration::from_secs(180);

/// Stops every sandbox whose network this CNI made, until no record of it is left.
pub(super) fn stop_all(cx: &mut Context, made_by: Cni) -> Result<Value> {
    let mut stopped: Vec<String> = Vec::new();
    let mut last_error = None;
    let stop = cx.stop;
    let done = stop.wait_for(LIMIT, || {
        let (targets, orphans) = targets(cx, made_by)?;
        if targets.is_empty() && orphans.is_empty() {
            return Ok(Some(()));
        }
        // At once: with an API server that hangs, each of Calico's DELs takes the whole time that it has.
        let ids: Vec<&str> = targets.iter().map(|s| s.id.as_str()).collect();
        for (sandbox, answer) in targets.iter().zip(cx.cri()?.stop_sandboxes(&ids)) {
            match answer {
                Ok(()) => stopped.push(sandbox.full_name()),
                Err(e) => last_error = Some(e.context(sandbox.full_name())),
            }
        }
        for record in &orphans {
            // The runtime has forgotten the sandbox; nobody else will ever ask for its DEL.
            if let Err(e) = attachment::delete(cx, record) {
                last_error = Some(e.context(format!("record {}", record.container_id)));
            }
        }
        Ok(None)
    })?;
    if done.is_none() {
        let why = last_error.map_or_else(|| "no error was reported".to_owned(), |e| format!("{e:#}"));
        bail!(
            "sandboxes of {made_by} are left after {} s: {why}. To fix it: see the runtime's log for the failing DEL",
            LIMIT.as_secs()
        );
    }
    stopped.dedup();
    Ok(json!({ "stopped": stopped }))
}

/// Sandboxes to stop, and records whose sandbox the runtime no longer knows.
fn targets(cx: &mut Context, made_by: Cni) -> Result<(Vec<Sandbox>, Vec<Record>)> {
    let (records, _) = Record::list(&cx.shim())?;
    let sandboxes = cx.cri()?.sandboxes()?;
    let (mut found, mut orphans) = (Vec::new(), Vec::new());
    for record in records.into_iter().filter(|r| r.backend == shim_backend(made_by)) {
        match sandboxes.iter().find(|s| s.id == record.container_id) {
            Some(sandbox) => found.push(sandbox.clone()),
            None => orphans.push(record),
        }
    }
    let known = |id: &str| found.iter().any(|s: &Sandbox| s.id == id);
    let unrecorded: Vec<Sandbox> = sandboxes
        .iter()
        .filter(|s| !s.host_network && s.ready && !known(&s.id))
        .filter(|s| !matches!(Record::load(&cx.shim(), &s.id, "eth0"), Ok(Some(_))))
        .cloned()
        .collect();
    found.extend(unrecorded);
    Ok((found, orphans))
}

/// Undoes a release: new pods wait again, and those that got the new CNI lose their sandboxes; kubelet rebuilds them when
/// the hold ends.
pub(super) fn undo_release(cx: &mut Context, to: Cni) -> Result<()> {
    let paths = cx.shim();
    shim::hold(cx, to.other())?;
    if to == Cni::Calico && cx.api.get_node().is_err() {
        // Calico's DEL needs the API server. Without it, DELs are kept and answered with success; they are owed.
        State::change(&paths, |state| {
            let mut state = state.ok_or_else(|| cni_shim::Error::new(5, "the shim has no state", ""))?;
            state.defer_failed_del = true;
            Ok(state)
        })
        .context("could not tell the shim to keep DELs that fail")?;
        cx.owe(crate::journal::Debt::PendingDels)?;
    }
    stop_all(cx, to).map(drop)
}
