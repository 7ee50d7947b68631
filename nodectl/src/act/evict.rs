//! Evicting the pods that may move. Budgets are respected: a refused eviction is tried again until the time is up.
//!
//! Differs from `kubectl drain` where a node's own identity must: no DaemonSet can be read, so ownership decides, and a
//! pod that is gone answers 403 from Kubernetes 1.32 on, so waiting is done by listing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::Context;
use crate::facts::Pod;
use crate::host::kube::{Evictee, Eviction, Write};
use crate::plan;
use crate::request::{LONGEST_S, Request};

/// kubectl waits this long before it tries a refused eviction again.
const RETRY: Duration = Duration::from_secs(5);

pub(super) fn apply(cx: &mut Context, timeout_s: u64, grace_s: Option<u32>) -> Result<Value> {
    let limit = Duration::from_secs(timeout_s.min(LONGEST_S));
    let begun = Instant::now();
    let mut refused: BTreeMap<String, (Instant, String)> = BTreeMap::new();
    let mut evicted: Vec<String> = Vec::new();
    loop {
        let pods: Vec<Pod> = cx.api.pods()?.into_iter().filter(plan::moves).collect();
        if pods.is_empty() {
            return Ok(json!({ "evicted": evicted }));
        }
        for pod in pods.iter().filter(|p| !p.terminating) {
            // Each eviction may take as long as the API server likes: a node may have some hundred.
            cx.stop.check()?;
            let name = pod.full_name();
            if refused.get(&name).is_some_and(|(at, _)| at.elapsed() < RETRY) || begun.elapsed() >= limit {
                continue;
            }
            accepted(pod, &cx.plan.request)?;
            match evict(cx, pod, grace_s)? {
                None => {
                    cx.did("evicted", &name);
                    evicted.push(name);
                }
                Some(why) => drop(refused.insert(name, (Instant::now(), why))),
            }
        }
        cx.stop.check()?;
        if begun.elapsed() >= limit {
            bail!("{}", too_late(&pods, &refused, timeout_s));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A pod that has come since preflight looked must not be lost without consent.
fn accepted(pod: &Pod, request: &Request) -> Result<()> {
    match crate::preflight::loss(pod, request) {
        None => Ok(()),
        Some((why, fix)) => bail!("{} has come since preflight: {why}. To fix it: {fix}", pod.full_name()),
    }
}

/// `None` where the eviction was accepted or the pod is gone, else why it was refused for now.
fn evict(cx: &Context, pod: &Pod, grace_s: Option<u32>) -> Result<Option<String>> {
    let evictee = Evictee { namespace: &pod.namespace, name: &pod.name, uid: &pod.uid, grace_seconds: grace_s };
    let answer = cx.api.must(|kube| kube.evict(evictee, Write::default()));
    match answer.with_context(|| format!("could not evict {}", pod.full_name()))? {
        Eviction::Accepted | Eviction::Gone => Ok(None),
        Eviction::Blocked(why) => Ok(Some(why)),
    }
}

fn too_late(pods: &[Pod], refused: &BTreeMap<String, (Instant, String)>, timeout_s: u64) -> String {
    let each: Vec<String> = pods
        .iter()
        .map(|p| {
            let name = p.full_name();
            match refused.get(&name) {
                Some((_, why)) if !p.terminating => format!("{name}: {why}"),
                _ => format!("{name}: still terminating"),
            }
        })
        .collect();
    format!(
        "{} pods are still on the node after {timeout_s} s: {}. To fix it: scale the workload up or loosen its \
         budget, then run it again; or give it longer with --drain-timeout",
        each.len(),
        each.join("; ")
    )
}
