//! Measuring what answers: before the switch as the baseline, after it as the proof.
//!
//! The proof is made from the host and from an attachment of our own, made and deleted through the shim. felix drops the
//! traffic of a cali interface that it does not know, and it knows those of pods only; so the attachment through Calico
//! borrows the name of a pod that waits in the hold, whose own attachment comes after ours is gone.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::Context;
use super::attachment::{self, Call};
use cni_store::record::Record;

use crate::cni::Cni;
use crate::host::{netns, ping};
use crate::journal::Debt;
use crate::plan;
use crate::request::Strategy;
use crate::step::{Step, Targets};

/// Echo requests to each peer.
const ECHOES: u32 = 3;
/// How long each may take.
const ECHO_LIMIT: Duration = Duration::from_millis(700);
/// How long the new overlay is given to answer as the old one did: agents program routes after they are ready.
const SETTLE: Duration = Duration::from_secs(30);
/// How long an attachment of our own is asked for.
const ATTACH: Duration = Duration::from_secs(10);

/// Measures from the host, before anything is switched.
pub(super) fn measure(cx: &mut Context, targets: &Targets) -> Result<Value> {
    let found = probe(targets)?;
    let silent = missing(targets, &found);
    if !silent.is_empty() {
        tracing::warn!(
            "these do not answer before the switch, so nothing can be proven of them after it: {}",
            silent.join(", ")
        );
    }
    let value = json!({ "host": found });
    cx.baseline = value.clone();
    Ok(value)
}

/// Everything that answered before must answer now.
pub(super) fn verify(cx: &mut Context, via: Cni, targets: &Targets) -> Result<Value> {
    let before = answered_before(cx).unwrap_or_default();
    let wanted = expected(targets, &before);
    let stop = cx.stop;
    let mut last = json!({});
    let host = stop.wait_for(SETTLE, || {
        last = probe(&wanted)?;
        Ok(missing(&wanted, &last).is_empty().then_some(()))
    })?;
    if host.is_none() {
        bail!("{}", complaint("this host", &missing(&wanted, &last)));
    }
    let attachment = match attach(cx, via)? {
        Some((container, netns, args, result)) => {
            let outcome = probe_from(cx, &wanted, &netns);
            let detached = detach(cx, &container, &netns, &args);
            let found = outcome?;
            detached.context("could not delete the attachment that we probed from")?;
            let lost = missing(&wanted, &found);
            // Through Calico our attachment goes by a real pod's name, and that pod's network policies may forbid what is
            // asked here: the host's own answers stand, and what the pod did not get is said in the report.
            if !lost.is_empty() && !borrows_a_pod(cx, via) {
                bail!("{}", complaint("a pod of this node", &lost));
            }
            json!({ "attachment": attachment::summary(&result), "from_attachment": found, "not_answered": lost })
        }
        None => {
            json!({ "attachment": null, "note": "no pod waits for Calico's plugin, so its first real pod is the proof" })
        }
    };
    Ok(json!({ "host": last, "pod": attachment }))
}

/// Whether Calico's plugin makes the attachment, which wants a pod: Calico's own, and Canal's.
fn borrows_a_pod(cx: &Context, via: Cni) -> bool {
    via == Cni::Calico || cx.plan.prepared.canal
}

/// Makes our attachment: container id, netns path, CNI_ARGS and the result. `None` where Calico's plugin has no pod to be it.
fn attach(cx: &mut Context, via: Cni) -> Result<Option<(String, String, String, Value)>> {
    let mut args = format!("IgnoreUnknown=1;NODECTL_RUN={}", cx.run.id);
    if borrows_a_pod(cx, via) {
        let Some((namespace, name, uid)) = waiting_pod(cx)? else { return Ok(None) };
        args.push_str(&format!(";K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}"));
    }
    let container = container_of(cx);
    // A run that was killed while it probed left its attachment; a second ADD beside it would be refused.
    let _ = detach(cx, &container, "", &args);
    let netns = netns::create(cx.host, &container)?;
    let call =
        |verb| attachment::call(cx, &Call { verb, container: &container, ifname: "eth0", netns: &netns, args: &args });
    // As kubelet would: one answer of the API server that is lost must not take a node back.
    let attached = cx.stop.keep_asking(ATTACH, || call("ADD").map(Some).inspect_err(|_| drop(call("DEL"))));
    match attached.and_then(|result| result.context("it took too long")) {
        Ok(result) => Ok(Some((container, netns, args, result))),
        Err(error) => {
            let _ = detach(cx, &container, &netns, &args);
            Err(error.context(format!("{via} did not attach our probe. To fix it: see its agent's log on this node")))
        }
    }
}

fn detach(cx: &Context, container: &str, netns: &str, args: &str) -> Result<()> {
    let deleted = attachment::call(cx, &Call { verb: "DEL", container, ifname: "eth0", netns, args });
    netns::delete(cx.host, container)?;
    deleted.map(drop)
}

/// Takes away the attachment that a run which was killed while it probed has left: its record knows how.
pub(super) fn undo(cx: &mut Context) -> Result<()> {
    let container = container_of(cx);
    let paths = cx.shim();
    if let Some(record) = Record::load(&paths, &container, "eth0")?
        && let Err(error) = attachment::delete(cx, &record)
    {
        tracing::warn!("our own attachment could not be deleted now: {error:#}");
        cx.owe(Debt::PendingDels)?;
    }
    netns::delete(cx.host, &container)
}

/// The container id of our own attachment.
fn container_of(cx: &Context) -> String {
    format!("nodectl-{}", cx.run.id.to_lowercase())
}

/// A pod whose ADD waits in the hold: its name is free, and felix knows it.
fn waiting_pod(cx: &mut Context) -> Result<Option<(String, String, String)>> {
    let paths = cx.shim();
    let stop = cx.stop;
    // kubelet needs a moment to notice that a sandbox has gone and to ask for a new one.
    let stops = |step: &Step| matches!(step, Step::StopSandboxes { pods, .. } if !pods.is_empty());
    let comes = match cx.plan.request.strategy {
        Strategy::InPlace => cx.plan.steps.iter().any(stops),
        _ => cx.api.pods()?.iter().any(|p| !p.host_network && !plan::moves(p)),
    };
    let limit = if comes { Duration::from_secs(20) } else { Duration::ZERO };
    stop.wait_for(limit, || {
        let holds = cni_store::holds::list(&paths)?;
        Ok(holds.into_iter().find_map(|h| h.pod).map(|p| (p.namespace, p.name, p.uid)))
    })
}

/// Probes from inside the attachment; the new network is given time to carry.
fn probe_from(cx: &Context, wanted: &Targets, path: &str) -> Result<Value> {
    let mut last = json!({});
    cx.stop.wait_for(SETTLE, || {
        let targets = wanted.clone();
        last = netns::enter(&cx.host.path(path), move || probe(&targets))??;
        Ok(missing(wanted, &last).is_empty().then_some(()))
    })?;
    Ok(last)
}

/// Asks every target once.
fn probe(targets: &Targets) -> Result<Value> {
    let mut ips = targets.peers.clone();
    ips.extend(targets.host);
    let replies = ping::ping(&ips, ECHOES, ECHO_LIMIT).context("could not send echo requests")?;
    let peers: serde_json::Map<String, Value> = replies
        .iter()
        .map(|r| (r.target.to_string(), json!({ "sent": r.sent, "received": r.received, "us": r.avg_us })))
        .collect();
    let tcp = |address: &str| {
        let address = address.parse().ok();
        address.map(|a| ping::tcp_connect(a, Duration::from_secs(2)))
    };
    let dns = targets.dns.parse().ok().map(|a| ping::dns_answers(a, Duration::from_secs(2)));
    Ok(json!({ "peers": peers, "service": tcp(&targets.service), "dns": dns }))
}

/// What answered before the switch; `None` where that was not measured.
pub(super) fn answered_before(cx: &Context) -> Option<Targets> {
    let found = &cx.baseline["host"];
    (!found.is_null()).then(|| answered(found))
}

/// What answered in a measurement.
fn answered(found: &Value) -> Targets {
    let peers = found["peers"].as_object().cloned().unwrap_or_default();
    let up = peers.iter().filter(|(_, r)| r["received"].as_u64().unwrap_or(0) > 0);
    let yes = |key: &str| if found[key] == json!(true) { "yes".to_owned() } else { String::new() };
    Targets {
        peers: up.filter_map(|(ip, _)| ip.parse::<IpAddr>().ok()).collect(),
        service: yes("service"),
        dns: yes("dns"),
        host: None,
    }
}

/// The targets that answered before: a peer that was dead before never reverts a node.
fn expected(targets: &Targets, before: &Targets) -> Targets {
    let keep = |text: &str, was: &str| if was.is_empty() { String::new() } else { text.to_owned() };
    Targets {
        peers: targets.peers.iter().filter(|p| before.peers.contains(p)).copied().collect(),
        service: keep(&targets.service, &before.service),
        dns: keep(&targets.dns, &before.dns),
        host: targets.host.filter(|h| before.peers.contains(h)),
    }
}

/// Which of the wanted targets do not answer in a measurement.
pub fn missing(wanted: &Targets, found: &Value) -> Vec<String> {
    let now = answered(found);
    let mut missing: Vec<String> =
        wanted.peers.iter().chain(&wanted.host).filter(|p| !now.peers.contains(p)).map(IpAddr::to_string).collect();
    if !wanted.service.is_empty() && now.service.is_empty() {
        missing.push(format!("service {}", wanted.service));
    }
    if !wanted.dns.is_empty() && now.dns.is_empty() {
        missing.push(format!("DNS {}", wanted.dns));
    }
    missing
}

fn complaint(from: &str, missing: &[String]) -> String {
    format!("from {from}, what answered before the switch does not answer any more: {}", missing.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_was_dead_before_is_not_missed() {
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        let targets = Targets {
            peers: vec![ip("10.0.1.0"), ip("10.0.2.0")],
            service: "1.2.3.4:443".into(),
            ..Targets::default()
        };
        let before = json!({"peers": {"10.0.1.0": {"received": 3}, "10.0.2.0": {"received": 0}}, "service": false});
        let wanted = expected(&targets, &answered(&before));
        assert_eq!(wanted.peers, [ip("10.0.1.0")]);
        assert!(wanted.service.is_empty());
        assert!(missing(&wanted, &before).is_empty());
        assert_eq!(missing(&wanted, &json!({"peers": {}})), ["10.0.1.0"]);
    }
}
