//! The shim's state and records.

use std::time::Duration;

use anyhow::{Context as _, Result};
use cni_store::lock;
use cni_store::record::Record;
use cni_store::state::{Owner, State};
use serde_json::{Value, json};

use super::{Context, attachment};
use crate::cni::Cni;
use crate::fault;
use crate::plan::shim_backend;
use crate::step::Before;

/// A hold lasts at most this long, and three times an agent's limit, even if its owner lives: a run that hangs must not
/// keep pods from starting for ever, and one that takes all the time that it is given must not lose its hold.
const HOLD_BOUND: Duration = Duration::from_secs(20 * 60);
/// A call of the shim ends within its own limits: 100 s for an ADD, and as long again to undo it.
const CALL: Duration = Duration::from_secs(200);
/// Delegates of an ADD that is under way end within the shim's own limit for it.
const IN_FLIGHT: Duration = Duration::from_secs(110);

pub(super) fn before(cx: &mut Context) -> Result<Before> {
    let state = State::load(&cx.shim())?;
    let state = state.map(serde_json::to_value).transpose().context("could not encode the shim's state")?;
    Ok(Before::ShimState { state })
}

/// Sends new pods to one CNI; what waits in a hold goes on.
pub(super) fn route(cx: &mut Context, to: Cni) -> Result<Value> {
    set(cx, &State::routed(shim_backend(to)))
}

/// New pods wait; ADDs that are under way are waited for.
pub(super) fn hold(cx: &mut Context, next: Cni) -> Result<Value> {
    let paths = cx.shim();
    let owner = Owner::this_process(cx.run.id.clone());
    let bound = HOLD_BOUND + 3 * Duration::from_secs(cx.plan.request.agent_timeout_s.min(24 * 3600));
    let state = State::hold(shim_backend(next.other()), shim_backend(next), owner, bound);
    set(cx, &state)?;
    let settled = cx.stop.wait_for(IN_FLIGHT, || Ok(Record::in_flight(&paths)?.is_empty().then_some(())))?;
    settled.context("an attachment that had begun before the hold did not end within 110 s")?;
    Ok(Value::Null)
}

fn set(cx: &Context, state: &State) -> Result<Value> {
    fault::point("shim.state");
    state.store(&cx.shim()).context("could not write the shim's state")?;
    Ok(Value::Null)
}

/// Puts the state back; where there was none, the shim's whole folder goes: it was ours alone.
pub(super) fn undo(cx: &mut Context, before: &Before) -> Result<()> {
    let Before::ShimState { state } = before else { return Ok(()) };
    match state {
        Some(state) => {
            let mut state: State = serde_json::from_value(state.clone())
                .context("the journal's copy of the shim's state does not parse")?;
            state.owner = None;
            set(cx, &state).map(drop)
        }
        None => {
            // The runtime uses another network by now, but a call that had begun before writes its record still.
            await_idle(cx)?;
            let folder = cx.host.path(crate::plan::SHIM_STATE_DIR);
            // DELs that failed since nothing was owed any more outlive the shim's own folder.
            if cni_store::pending::Pending::list(&cx.shim())?.0.is_empty() {
                crate::host::files::remove_directory(&folder)?;
            }
            Ok(())
        }
    }
}

/// Waits until no call of the shim is under way.
pub(super) fn await_idle(cx: &Context) -> Result<()> {
    let paths = cx.shim();
    let idle = cx.stop.wait_for(CALL, || Ok(lock::sweep(&paths)?.then_some(())))?;
    idle.with_context(|| format!("a call of the shim that was under way did not end within {} s", CALL.as_secs()))
}

/// Gives every sandbox that is older than the shim a record, from what its ADD left behind.
pub(super) fn import(cx: &mut Context, made_by: Cni) -> Result<Value> {
    let paths = cx.shim();
    let sandboxes = cx.cri()?.sandboxes()?;
    let mut imported = Vec::new();
    for sandbox in sandboxes.iter().filter(|s| !s.host_network && s.ready) {
        let ifname = "eth0";
        if Record::load(&paths, &sandbox.id, ifname)?.is_some() {
            continue;
        }
        fault::point("shim.import");
        let name = sandbox.full_name();
        let found = attachment::import(cx, sandbox, ifname)
            .with_context(|| format!("could not record the sandbox of {name}"))?;
        if !found {
            tracing::warn!("nothing tells which CNI made the sandbox of {name}; it is taken to be {made_by}'s");
        }
        imported.push(name);
    }
    Ok(json!({ "imported": imported }))
}
