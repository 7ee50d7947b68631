//! Stopping the sandboxes of one CNI through CRI: the runtime runs their DEL, which the shim routes by record.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use cni_store::record::{Phase, Record};
use cni_store::state::State;
use serde_json::{Value, json};

use super::{Context, attachment, shim};
use crate::cni::Cni;
use crate::facts::Sandbox;
use crate::failure::Overtaken;
use crate::host::cri::{Container, Ending};
use crate::host::files;
use crate::plan::shim_backend;
use crate::remedy::Told;
use crate::request::{Strategy, Unadoptable};
use crate::step::Step;

/// A DEL has 45 s in the shim; a few may have to be tried again.
const LIMIT: Duration = Duration::from_secs(180);
/// Kubernetes' own default, in seconds. A pod that asks for more than that stays here because nothing else can run it
/// (a DaemonSet's, a static one), and the node is waiting.
const LONGEST_GRACE: u32 = 30;

/// New pods are held from now on. Where none is to be rebuilt (`--unadoptable refuse`), those that have come since the plan was
/// made need a plan that has them: an error of the kind [`Overtaken`]. Nothing else was done so far; in a run that goes on after
/// its end, nodectl's or the node's, they have come to a node between two CNIs, and are rebuilt.
pub(super) fn as_planned(cx: &mut Context) -> Result<()> {
    let request = &cx.plan.request;
    let after_hold = |n: &usize| *n > cx.at;
    if request.strategy != Strategy::InPlace
        || request.unadoptable != Unadoptable::Refuse
        || cx.journal.log()?.standing().iter().any(after_hold)
    {
        return Ok(());
    }
    let others = cx.plan.steps.iter().find_map(|step| match step {
        Step::StopSandboxes { made_by, pods, spare } => Some((*made_by, pods, spare)),
        _ => None,
    });
    let Some((made_by, pods, spare)) = others else { return Ok(()) };
    let born = born_since(cx, made_by, pods, spare)?;
    if born.is_empty() { Ok(()) } else { Err(Overtaken(born).into()) }
}

/// Living pods whose network this CNI made, and of which the plan says nothing.
fn born_since(cx: &mut Context, made_by: Cni, pods: &[String], spare: &[String]) -> Result<Vec<String>> {
    let (found, orphans) = targets(cx, made_by)?;
    let ready = found.iter().filter(|s| s.ready && !spare.contains(&s.id)).map(Sandbox::full_name);
    // One whose ADD has not ended yet is not known to the runtime so far.
    let is_coming = |r: &&Record| r.phase != Phase::Deleting && files::exists(&cx.host.path(&r.netns));
    let coming = orphans.iter().filter(is_coming).filter_map(|r| Some(r.pod.as_ref()?.full_name()));
    let mut born: Vec<String> = ready.chain(coming).filter(|pod| !pods.contains(pod)).collect();
    born.sort_unstable();
    born.dedup();
    Ok(born)
}

/// Stops every sandbox whose network this CNI made, but for those in `spare`, until no record of them is left.
pub(super) fn stop_all(cx: &mut Context, made_by: Cni, spare: &[String]) -> Result<Value> {
    let mut stopped: Vec<String> = Vec::new();
    let mut last_error = None;
    let stop = cx.stop;
    let done = stop.keep_asking(LIMIT, || {
        let (mut targets, orphans) = targets(cx, made_by)?;
        targets.retain(|sandbox| !spare.contains(&sandbox.id));
        if targets.is_empty() && orphans.is_empty() {
            return Ok(Some(()));
        }
        // At once: with an API server that hangs, each of Calico's DELs takes the whole time that it has.
        let endings = endings(&targets, &cx.cri()?.containers()?);
        for (sandbox, answer) in targets.iter().zip(cx.cri()?.stop_sandboxes(&endings)) {
            match answer {
                Ok(()) => {
                    cx.did("sandbox stopped, to be built anew", &sandbox.full_name());
                    stopped.push(sandbox.full_name());
                }
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
        let why = last_error.map_or_else(|| "no error was reported".to_owned(), |e| Told::of_error(&e).to_string());
        bail!(
            "sandboxes of {made_by} are left after {} s: {why}. To fix it: see the runtime's log for the failing DEL",
            LIMIT.as_secs()
        );
    }
    stopped.dedup();
    Ok(json!({ "stopped": stopped }))
}

/// With the grace of their pods: StopPodSandbox alone kills at once.
fn endings(targets: &[Sandbox], containers: &[Container]) -> Vec<Ending> {
    let grace = |c: &Container| c.grace_seconds.unwrap_or(LONGEST_GRACE).min(LONGEST_GRACE);
    let of = |sandbox: &Sandbox| {
        let running = containers.iter().filter(|c| c.running && c.sandbox == sandbox.id);
        running.map(|c| (c.id.clone(), grace(c))).collect()
    };
    targets.iter().map(|s| Ending { sandbox: s.id.clone(), containers: of(s) }).collect()
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
            let mut state = state.ok_or_else(|| cni_spec::Error::new(5, "the shim has no state", ""))?;
            state.defer_failed_del = true;
            Ok(state)
        })
        .context("could not tell the shim to keep DELs that fail")?;
        cx.owe(crate::journal::Debt::PendingDels)?;
    }
    // Those that were re-plumbed go back as they came, by steps of their own.
    let adopted: Vec<String> = cx.plan.adopted().map(|pod| pod.sandbox.clone()).collect();
    stop_all(cx, to, &adopted).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_its_own_grace_up_to_the_longest() {
        let container = |id: &str, sandbox: &str, running, grace_seconds| Container {
            id: id.into(),
            sandbox: sandbox.into(),
            running,
            grace_seconds,
        };
        let containers = [
            container("short", "a", true, Some(2)),
            container("gone", "a", false, Some(2)),
            container("long", "a", true, Some(600)),
            container("unsaid", "b", true, None),
            container("other", "c", true, Some(1)),
        ];
        let sandbox = |id: &str| Sandbox { id: id.into(), ..Sandbox::default() };
        let endings = endings(&[sandbox("a"), sandbox("b")], &containers);
        assert_eq!(endings[0].containers, [("short".to_owned(), 2), ("long".to_owned(), LONGEST_GRACE)]);
        assert_eq!(endings[1].containers, [("unsaid".to_owned(), LONGEST_GRACE)]);
    }
}
