//! Re-plumbing this node's pods while they run; the operations themselves are decided in [`crate::adopt`].
//!
//! Each step works on one pod under the lock of its attachment, so that no DEL takes its namespace away meanwhile. A pod that
//! has gone since the plan was made is passed over.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use cni_store::lock;
use cni_store::record::{Phase, Record};
use serde_json::{Value, json};

use super::{Context, records};
use crate::adopt::{At, PodNetwork, carry_out, read, to_calico, to_flannel};
use crate::host::files;
use crate::step::{AdoptedPod, Before};

/// A DEL that is at work has 45 s in the shim.
const WAIT: Duration = Duration::from_secs(60);

/// The pod's network as it stands; nothing where the pod has gone.
pub(super) fn before(cx: &Context, pod: &AdoptedPod) -> Result<Before> {
    let path = cx.host.path(&pod.netns);
    if record(cx, pod)?.is_none_or(|record| is_going(&record)) || !files::exists(&path) {
        return Ok(Before::Nothing);
    }
    match read::read(&pod.pod, &path, &pod.ifname)? {
        Ok(network) => Ok(Before::Pod(Box::new(network))),
        Err(why) => bail!(
            "{} cannot be re-plumbed any more: {why}. To fix it: make the plan again, which names such pods and what is done \
             with them",
            pod.pod
        ),
    }
}

pub(super) fn guide(cx: &Context, pod: &AdoptedPod, before: &Before) -> Result<Value> {
    on_pod(cx, pod, before, |network| Ok(to_calico::guide(network)))
}

pub(super) fn unguide(cx: &Context, pod: &AdoptedPod, before: &Before) -> Result<()> {
    on_pod(cx, pod, before, |network| Ok(to_flannel::unguide(network))).map(drop)
}

pub(super) fn turn(cx: &Context, pod: &AdoptedPod, before: &Before) -> Result<Value> {
    on_pod(cx, pod, before, |network| Ok(to_calico::turn(network)))
}

pub(super) fn unturn(cx: &Context, pod: &AdoptedPod, before: &Before) -> Result<()> {
    on_pod(cx, pod, before, |network| Ok(to_flannel::unturn(network))).map(drop)
}

pub(super) fn detach(cx: &Context, pod: &AdoptedPod, before: &Before) -> Result<Value> {
    on_pod(cx, pod, before, |network| Ok(to_calico::detach(network, &pod.interface, pod.metric, pod.way)))
}

pub(super) fn attach(cx: &Context, pod: &AdoptedPod, before: &Before) -> Result<()> {
    let back = |was: &PodNetwork| {
        let now = PodNetwork { host: pod.interface.clone(), ..was.clone() };
        Ok(to_flannel::attach(&now, was, pod.way))
    };
    on_pod(cx, pod, before, back).map(drop)
}

/// Into the bridge, though the pod never was a port of it: as the bridge plugin would have made it one.
pub(super) fn attach_anew(cx: &Context, pod: &AdoptedPod, before: &Before) -> Result<Value> {
    on_pod(cx, pod, before, |now| {
        let mut to = records::port(cx, now)?;
        to.sysctls = read::fresh_sysctls(&to.host)?;
        let mut operations = to_flannel::pin_gateway(now);
        operations.extend(to_flannel::attach(now, &to, pod.way));
        Ok(operations)
    })
}

pub(super) fn detach_again(cx: &Context, pod: &AdoptedPod, before: &Before) -> Result<()> {
    let back = |now: &PodNetwork| Ok(to_calico::detach(&records::port(cx, now)?, &pod.interface, pod.metric, pod.way));
    on_pod(cx, pod, before, back).map(drop)
}

pub(super) fn unturn_anew(cx: &Context, pod: &AdoptedPod, before: &Before) -> Result<Value> {
    on_pod(cx, pod, before, |now| Ok(to_flannel::unturn(&records::port(cx, now)?)))
}

pub(super) fn turn_again(cx: &Context, pod: &AdoptedPod, before: &Before) -> Result<()> {
    on_pod(cx, pod, before, |now| Ok(to_calico::turn(&records::port(cx, now)?))).map(drop)
}

pub(super) fn unguide_anew(cx: &Context, pod: &AdoptedPod, before: &Before) -> Result<Value> {
    on_pod(cx, pod, before, |now| Ok(to_flannel::unguide(&records::port(cx, now)?)))
}

pub(super) fn guide_again(cx: &Context, pod: &AdoptedPod, before: &Before) -> Result<()> {
    on_pod(cx, pod, before, |now| Ok(to_calico::guide(&records::port(cx, now)?))).map(drop)
}

/// Carries out what is decided for the pod, under its lock; says whether it was there.
fn on_pod(
    cx: &Context,
    pod: &AdoptedPod,
    before: &Before,
    decide: impl Fn(&PodNetwork) -> Result<Vec<At>>,
) -> Result<Value> {
    let Before::Pod(network) = before else { return Ok(json!({ "gone": true })) };
    let there = under_lock(cx, pod, |path| {
        carry_out(&decide(network)?, path, &mut |_| ()).with_context(|| format!("could not re-plumb {}", pod.pod))
    })?;
    Ok(if there { Value::Null } else { json!({ "gone": true }) })
}

/// Works on the pod while no DEL can; false where it has gone.
pub(super) fn under_lock(cx: &Context, pod: &AdoptedPod, work: impl FnOnce(&Path) -> Result<()>) -> Result<bool> {
    let lock = lock::attachment(&cx.shim(), &pod.sandbox, &pod.ifname, WAIT)?;
    let lock = lock.ok_or_else(|| {
        anyhow!(
            "the attachment of {} is being worked on for more than {} s. To fix it: see the runtime's log for its DEL",
            pod.pod,
            WAIT.as_secs()
        )
    })?;
    let path = cx.host.path(&pod.netns);
    match record(cx, pod)? {
        // Our lock file is all that is left of it.
        None => lock.remove(),
        Some(record) if is_going(&record) || !files::exists(&path) => {}
        Some(_) => {
            work(&path)?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// What the shim remembers of the pod.
pub(super) fn record(cx: &Context, pod: &AdoptedPod) -> Result<Option<Record>> {
    Ok(Record::load(&cx.shim(), &pod.sandbox, &pod.ifname)?)
}

/// Whether the pod is there still, with its network: no DEL has begun, and no reboot has ended it.
pub(super) fn is_there(cx: &Context, pod: &AdoptedPod) -> bool {
    matches!(record(cx, pod), Ok(Some(record)) if !is_going(&record)) && files::exists(&cx.host.path(&pod.netns))
}

/// A DEL has begun: what is left of its network is that DEL's.
fn is_going(record: &Record) -> bool {
    record.phase == Phase::Deleting
}
