//! Who has a pod in writing: Calico's IPAM and annotations, flannel's lease and note, and the shim's record, by which its DEL goes.

use std::fs::OpenOptions;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use cni_store::record::Record;
use cni_store::state::Backend;
use serde_json::{Value, json};

use super::in_place::{record, under_lock};
use super::{Context, attachment};
use crate::adopt::claim::{self, Attachment};
use crate::adopt::{PodNetwork, lease, read, to_flannel};
use crate::fault;
use crate::host::files;
use crate::host::kube::Kube;
use crate::journal::Debt;
use crate::observe;
use crate::step::{AdoptedPod, Before};

/// The shim's record of the pod.
pub(super) fn before(cx: &Context, pod: &AdoptedPod) -> Result<Before> {
    let record =
        record(cx, pod)?.map(serde_json::to_value).transpose().context("could not encode the shim's record")?;
    Ok(Before::Record { record })
}

/// The record that the journal keeps.
fn kept(before: &Before) -> Result<Option<Record>> {
    let Before::Record { record: Some(record) } = before else { return Ok(None) };
    serde_json::from_value(record.clone()).context("the journal's copy of a record does not parse").map(Some)
}

fn gone(there: bool) -> Value {
    if there { Value::Null } else { json!({ "gone": true }) }
}

/// Gives the pod to Calico in writing: its address, its annotations, and last its record.
pub(super) fn claim(cx: &Context, pod: &AdoptedPod) -> Result<Value> {
    let there = under_lock(cx, pod, |_| {
        register(cx, pod)?;
        let installed = calico(cx)?;
        let Some(record) = record(cx, pod)?.filter(|record| record.backend == Backend::Flannel) else { return Ok(()) };
        fault::point("claim.record");
        let adopted = claim::adopted(&record, &installed, &cx.bin_dir(), &pod.interface);
        Ok(adopted.store(&cx.shim(), true)?)
    })?;
    Ok(gone(there))
}

/// The pod's DEL goes to flannel again, and Calico forgets it.
pub(super) fn unclaim(cx: &mut Context, pod: &AdoptedPod, before: &Before) -> Result<()> {
    let Some(record) = kept(before)? else { return Ok(()) };
    let there = under_lock(cx, pod, |_| {
        fault::point("claim.record");
        Ok(record.store(&cx.shim(), true)?)
    })?;
    if !there {
        // Deleted as Calico's: its lease and flannel's note, which were kept for this way back, are left.
        record.store(&cx.shim(), true)?;
        attachment::delete(cx, &record).with_context(|| format!("could not delete what flannel had of {}", pod.pod))?;
    }
    // The pod is flannel's by now; without the API server Calico forgets it later.
    match calico(cx) {
        Ok(calico) => {
            let forgotten = server_answers(cx).and_then(|()| forget(cx, pod, &calico));
            settled(cx, &forgotten, Debt::Unclaim { pod: Box::new(pod.clone()), calico: Box::new(calico) })
        }
        // Its garbage collector frees addresses of pods that are gone.
        Err(error) => {
            tracing::warn!("Calico may have the address of {} in writing until the pod is deleted: {error:#}", pod.pod);
            Ok(())
        }
    }
}

/// Calico forgets the pod, while it still carries it.
pub(super) fn disclaim(cx: &Context, pod: &AdoptedPod) -> Result<Value> {
    let calico = calico(cx)?;
    under_lock(cx, pod, |_| forget(cx, pod, &calico)).map(gone)
}

/// Calico knows the pod again, at once or later.
pub(super) fn reclaim(cx: &mut Context, pod: &AdoptedPod) -> Result<()> {
    let known = server_answers(cx).and_then(|()| know_again(cx, pod));
    settled(cx, &known, Debt::Reclaim { pod: Box::new(pod.clone()) })
}

/// Calico's plugin waits for an API server that is away for its whole time, and a node has many pods.
fn server_answers(cx: &Context) -> Result<()> {
    if cx.api.is_dead() {
        bail!("the API server does not answer");
    }
    Ok(())
}

/// What could not be done now, for want of the API server or of what comes with it, is owed.
fn settled(cx: &mut Context, outcome: &Result<()>, debt: Debt) -> Result<()> {
    match outcome {
        Ok(()) => cx.no_longer_owed(&debt),
        Err(error) => {
            tracing::warn!("{error:#}");
            // Where the server is away, that is known for the next pod then.
            let _ = cx.api.get_node();
            cx.owe(debt)
        }
    }
}

/// Puts the pod into Calico's address management, unless it has gone meanwhile.
pub(super) fn know_again(cx: &Context, pod: &AdoptedPod) -> Result<()> {
    under_lock(cx, pod, |_| register(cx, pod)).map(drop)
}

fn register(cx: &Context, pod: &AdoptedPod) -> Result<()> {
    let (installed, attachment) = (calico(cx)?, of_pod(pod)?);
    let kube = kube(cx, &installed)?;
    claim::assign(&installed, &attachment, &cx.bin_dir(), &kube)?;
    claim::annotate(&kube, &attachment, &attachment.ips)
}

/// Takes the pod out of Calico's address management and its annotations off.
pub(super) fn forget(cx: &Context, pod: &AdoptedPod, calico: &claim::Installed) -> Result<()> {
    let attachment = of_pod(pod)?;
    claim::release(calico, &attachment, &cx.bin_dir())?;
    claim::annotate(&kube(cx, calico)?, &attachment, &[])
}

fn kube(cx: &Context, installed: &claim::Installed) -> Result<Kube> {
    let path = cx.host.path(installed.kubeconfig()?);
    Kube::from_file(&path, None).context("Calico's credentials on this node cannot be used")
}

fn calico(cx: &Context) -> Result<claim::Installed> {
    claim::Installed::of(&cx.conflists().list(&cx.shim(), Backend::Calico, true)?)
}

fn of_pod(pod: &AdoptedPod) -> Result<Attachment> {
    let (namespace, name) = pod.pod.split_once('/').context("a pod's name has no namespace")?;
    Ok(Attachment {
        container: pod.sandbox.clone(),
        ifname: pod.ifname.clone(),
        netns: pod.netns.clone(),
        namespace: namespace.into(),
        name: name.into(),
        uid: pod.uid.clone(),
        ips: pod.ips.clone(),
    })
}

/// Gives the pod to flannel in writing: its lease, flannel's note, and last its record.
pub(super) fn lease(cx: &Context, pod: &AdoptedPod) -> Result<Value> {
    let there = under_lock(cx, pod, |path| {
        let installed = flannel(cx)?;
        let Some(record) = record(cx, pod)?.filter(|record| record.backend == Backend::Calico) else { return Ok(()) };
        take_lease(cx, pod, &installed)?;
        let (note, text) = installed.note(&pod.sandbox);
        let note = cx.host.path(note);
        files::create_directory(note.parent().unwrap_or(Path::new("/")), 0o700)?;
        files::write_atomic(&note, text.as_bytes(), 0o600)?;
        let now = read::read(&pod.pod, path, &pod.ifname)?.map_err(anyhow::Error::msg)?;
        fault::point("lease.record");
        let taken_back = lease::taken_back(&record, &installed, &cx.bin_dir(), &port(cx, &now)?);
        Ok(taken_back.store(&cx.shim(), true)?)
    })?;
    Ok(gone(there))
}

/// The pod's DEL goes to Calico again, and flannel forgets it.
pub(super) fn unlease(cx: &Context, pod: &AdoptedPod, before: &Before) -> Result<()> {
    let Some(record) = kept(before)? else { return Ok(()) };
    under_lock(cx, pod, |_| {
        fault::point("lease.record");
        record.store(&cx.shim(), true)?;
        // Where flannel has left before it could be asked, nothing was leased.
        let Ok(installed) = flannel(cx) else { return Ok(()) };
        files::remove(&cx.host.path(installed.note(&pod.sandbox).0))?;
        let folder = cx.host.path(installed.leases());
        for ip in &pod.ips {
            let path = folder.join(ip.to_string());
            if files::read_text_optional(&path)?.is_some_and(|text| text == lease::lease(&pod.sandbox, &pod.ifname)) {
                files::remove(&path)?;
            }
        }
        Ok(())
    })
    .map(drop)
}

/// host-local's leases of the pod's addresses, under host-local's own lock.
fn take_lease(cx: &Context, pod: &AdoptedPod, installed: &lease::Installed) -> Result<()> {
    let folder = cx.host.path(installed.leases());
    files::create_directory(&folder, 0o755)?;
    let path = folder.join("lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let lock = lock.with_context(|| format!("could not open {}", path.display()))?;
    lock.lock().with_context(|| format!("could not lock {}", path.display()))?;
    let wanted = lease::lease(&pod.sandbox, &pod.ifname);
    for ip in &pod.ips {
        let path = folder.join(ip.to_string());
        match files::read_text_optional(&path)? {
            Some(text) if text == wanted => {}
            Some(other) => bail!(
                "the address {ip} of {} is leased to {} by host-local. To fix it: restart this pod, or remove {} if nobody has \
                 the address",
                pod.pod,
                other.lines().next().unwrap_or_default(),
                path.display()
            ),
            None => files::write_atomic(&path, wanted.as_bytes(), 0o600)?,
        }
    }
    Ok(())
}

fn flannel(cx: &Context) -> Result<lease::Installed> {
    let list = cx.conflists().list(&cx.shim(), Backend::Flannel, true)?;
    lease::Installed::of(&list, &observe::subnet_env(cx.host)?)
}

/// The pod as a port of flannel's bridge.
pub(super) fn port(cx: &Context, now: &PodNetwork) -> Result<PodNetwork> {
    let installed = flannel(cx)?;
    let port = to_flannel::port_of(now, cx.plan.prepared.pod_cidr, &installed.routes());
    Ok(PodNetwork { hairpin: installed.hairpin(), ..port })
}
