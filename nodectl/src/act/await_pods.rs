//! Waiting until the pods that stayed on the node have their network back, and verifying one of them.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use cni_store::record::{Phase, Record};
use serde_json::{Value, json};

use super::Context;
use crate::cni::Cni;
use crate::facts::Pod;
use crate::host::ping;
use crate::plan::shim_backend;

pub(super) fn apply(cx: &mut Context, made_by: Cni, pods: &[String], timeout_s: u64) -> Result<Value> {
    let stop = cx.stop;
    let mut waiting = Vec::new();
    let done = stop.keep_asking(Duration::from_secs(timeout_s), || {
        waiting = without_network(cx, made_by, pods)?;
        waiting.first().into_iter().for_each(|pod| cx.working_on(pod));
        Ok(waiting.is_empty().then_some(()))
    })?;
    if done.is_none() {
        bail!("these pods have no network from {made_by} after {timeout_s} s: {}", waiting.join(", "));
    }
    verify_one(cx)
}

/// Those of the pods that are still bound here and not ending, whose attachment the CNI has not made (yet).
fn without_network(cx: &mut Context, made_by: Cni, pods: &[String]) -> Result<Vec<String>> {
    let (records, _) = Record::list(&cx.shim())?;
    let sandboxes = cx.cri()?.sandboxes()?;
    let attached = |pod: &Pod| {
        records.iter().any(|r| {
            r.backend == shim_backend(made_by)
                && r.phase == Phase::Added
                && sandboxes
                    .iter()
                    .any(|s| s.id == r.container_id && s.ready && s.namespace == pod.namespace && s.name == pod.name)
        })
    };
    let names = here(cx)?.into_iter().filter(|p| !attached(p)).map(|p| p.full_name());
    Ok(names.filter(|name| pods.contains(name)).collect())
}

fn here(cx: &Context) -> Result<Vec<Pod>> {
    Ok(cx.api.pods()?.into_iter().filter(|p| !p.host_network && !p.terminating && !p.has_ended()).collect())
}

/// One real pod must answer this host. A policy may forbid echoes to some; felix always lets the own host through.
fn verify_one(cx: &mut Context) -> Result<Value> {
    let stop = cx.stop;
    let mut tried: Vec<IpAddr> = Vec::new();
    let answered = stop.keep_asking(Duration::from_secs(20), || {
        tried = cx.cri()?.sandboxes()?.iter().filter(|s| s.ready && !s.host_network).filter_map(|s| s.ip).collect();
        if tried.is_empty() {
            return Ok(here(cx)?.is_empty().then_some(None));
        }
        let replies = ping::ping(&tried, 2, Duration::from_millis(500)).unwrap_or_default();
        Ok(replies.iter().find(|r| r.received > 0).map(|r| Some(r.target)))
    })?;
    match answered {
        Some(Some(ip)) => Ok(json!({ "verified": ip })),
        Some(None) => Ok(json!({ "verified": null, "note": "no pod with pod network is on this node" })),
        None => bail!("none of this node's pods answers this host: {tried:?}"),
    }
}
