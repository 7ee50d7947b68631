//! Stopping and starting an agent by the node's label, which its DaemonSet selects on.
//!
//! Where the API server is dead, a label moves nothing. To take a node back then, kubelet is stopped (it would start the
//! agent's containers again) and the agent's sandbox is ended through CRI; both are owed to the moment the server answers.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{Context, api, clean, debts};
use crate::cni::Cni;
use crate::facts::{Pod, Process, Sandbox};
use crate::host::{files, local_http, netlink, process, systemd};
use crate::journal::Debt;
use crate::step::{Agent, Before};

/// felix's readiness, where its manifests put it.
const FELIX_READINESS: &str = "http://127.0.0.1:9099/readiness";
/// kubelet's units by distribution.
const KUBELET_UNITS: [&str; 2] = ["kubelet.service", "snap.kubelet.service"];

pub(super) fn before(cx: &mut Context) -> Result<Before> {
    Ok(Before::Label { value: cx.api.label()? })
}

/// Labels the node `none` and waits until the agent is gone.
pub(super) fn stop(cx: &mut Context, agent: &Agent) -> Result<Value> {
    set_label(cx, "none")?;
    await_gone(cx, agent)?;
    Ok(Value::Null)
}

/// Labels the node for the agent and waits until it serves.
pub(super) fn start(cx: &mut Context, agent: &Agent) -> Result<Value> {
    set_label(cx, agent.cni.name())?;
    await_serving(cx, agent)
}

fn set_label(cx: &Context, value: &str) -> Result<()> {
    if !cx.api.set_label(Some(value))? {
        bail!("the API server does not answer. To fix it: see that it is reachable from this node");
    }
    Ok(())
}

/// Names of the processes that the agent consists of.
fn processes(agent: &Agent) -> &'static [&'static str] {
    match agent.cni {
        Cni::Flannel if agent.scope.canal => &["flanneld", "calico-node"],
        Cni::Flannel => &["flanneld"],
        Cni::Calico => &["calico-node"],
    }
}

/// Whether the process is this agent's and can be no other one's. Calico and Canal both have a calico-node, so on a cluster with
/// Canal it says nothing of either: on the way back from one to the other, the other's runs.
fn is_process_of(process: &Process, agent: &Agent) -> bool {
    match agent.cni {
        Cni::Flannel => process.name == "flanneld",
        Cni::Calico => process.name == "calico-node" && !agent.scope.canal,
    }
}

fn is_gone(cx: &mut Context, agent: &Agent) -> Result<bool> {
    if process::scan()?.iter().any(|p| is_process_of(p, agent)) {
        return Ok(false);
    }
    if cx.cri()?.sandboxes()?.iter().any(|s| s.ready && is_sandbox_of(s, agent)) {
        return Ok(false);
    }
    Ok(!is_to_come(cx, agent))
}

/// Whether a kubelet that runs has a pod of the agent on its list still: after a boot it may be about to start one that the
/// label asked for before. Without the API server the node's own view decides.
fn is_to_come(cx: &Context, agent: &Agent) -> bool {
    let runs = |unit: &&str| systemd::unit(unit).ok().flatten().is_some_and(|u| u.active == "active");
    if cx.api.is_dead() || !KUBELET_UNITS.iter().any(runs) {
        return false;
    }
    cx.api.pods().unwrap_or_default().iter().any(|p| is_of(p, agent))
}

/// Whether the sandbox is the agent's. The runtime does not know a pod's owner, but the API server makes a DaemonSet's pods'
/// names from its own, cut to 58 characters with its dash, and five more without one (apiserver/pkg/storage/names).
fn is_sandbox_of(sandbox: &Sandbox, agent: &Agent) -> bool {
    let stem: String = format!("{}-", agent.daemonset).chars().take(58).collect();
    let ending = sandbox.name.strip_prefix(&stem).unwrap_or_default();
    sandbox.namespace == agent.namespace && ending.len() == 5 && ending.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Whether the pod is the agent's.
fn is_of(pod: &Pod, agent: &Agent) -> bool {
    let owner = pod.controller.as_ref().map(|(_, name)| name);
    pod.namespace == agent.namespace && owner == Some(&agent.daemonset)
}

pub(super) fn await_gone(cx: &mut Context, agent: &Agent) -> Result<()> {
    let stop = cx.stop;
    let gone = stop.keep_asking(Duration::from_secs(agent.timeout_s), || Ok(is_gone(cx, agent)?.then_some(())))?;
    gone.with_context(|| {
        format!(
            "{} still runs {} s after the node's label asked it to leave. To fix it: see that the DaemonSet {}/{} selects on \
             nodectl.io/cni and that its pod here is not stuck terminating",
            agent.cni, agent.timeout_s, agent.namespace, agent.daemonset
        )
    })
}

/// Waits until the agent serves; what it still waits for is in the error.
pub(super) fn await_serving(cx: &mut Context, agent: &Agent) -> Result<Value> {
    let stop = cx.stop;
    let mut lacking = Vec::new();
    let serving = stop.keep_asking(Duration::from_secs(agent.timeout_s), || {
        lacking = lacks(cx, agent)?;
        Ok(lacking.is_empty().then_some(()))
    })?;
    if serving.is_none() {
        bail!(
            "{} does not serve after {} s; it lacks: {}. To fix it: see the log of its pod on this node ({}/{})",
            agent.cni,
            agent.timeout_s,
            lacking.join(", "),
            agent.namespace,
            agent.daemonset
        );
    }
    Ok(json!({ "serving": agent.cni }))
}

/// What the agent has not brought yet.
fn lacks(cx: &mut Context, agent: &Agent) -> Result<Vec<String>> {
    let mut lacks = Vec::new();
    let mut need = |there: bool, what: &str| {
        if !there {
            lacks.push(what.to_owned());
        }
    };
    let running = process::scan()?;
    processes(agent)
        .iter()
        .for_each(|name| need(running.iter().any(|p| p.name == *name), &format!("the process {name}")));
    // Calico's installer writes its conflist in place: half of it does not parse.
    let conflist = files::read_text_optional(&cx.host.path(&agent.conflist))?.unwrap_or_default();
    need(serde_json::from_str::<Value>(&conflist).is_ok(), "its network configuration");
    for binary in &agent.binaries {
        need(files::exists(&cx.host.path(binary)), binary);
    }
    let network = netlink::observe()?;
    agent.overlays().for_each(|overlay| need(network.link(overlay).is_some_and(|l| l.up), overlay));
    if let Some(why) = no_pod_stays(cx, agent) {
        need(false, &format!("a Ready pod that stays ({why})"));
    }
    match agent.cni {
        Cni::Flannel if agent.scope.canal => {
            need(files::exists(&cx.host.path(Path::new("/var/lib/calico/nodename"))), "/var/lib/calico/nodename");
            need(local_http::ready(FELIX_READINESS), "felix's readiness");
        }
        Cni::Flannel => need(files::exists(&cx.host.path(Path::new("/run/flannel/subnet.env"))), "subnet.env"),
        Cni::Calico => {
            need(files::exists(&cx.host.path(Path::new("/var/lib/calico/nodename"))), "/var/lib/calico/nodename");
            need(local_http::ready(FELIX_READINESS), "felix's readiness");
            // The condition was False before, by flannel: only Calico's own reason proves that Calico set it.
            let node = cx.api.get_node()?;
            let reason = api::network_unavailable(&node).map(|c| (c["status"].as_str(), c["reason"].as_str()));
            need(reason == Some((Some("False"), Some("CalicoIsUp"))), "the condition NetworkUnavailable by Calico");
        }
    }
    Ok(lacks)
}

/// Why the agent has no pod here that is Ready and stays. A process may be one on its way out: the label was asked for and
/// taken back within a second. A server that does not show the pods is asked again until the time is up.
fn no_pod_stays(cx: &Context, agent: &Agent) -> Option<String> {
    let pods = match cx.api.pods() {
        Ok(pods) => pods,
        Err(error) => return Some(format!("{error:#}")),
    };
    let mut mine = pods.iter().filter(|p| is_of(p, agent)).peekable();
    if mine.peek().is_none() {
        return Some("it has none on this node".into());
    }
    mine.find_map(|p| match (p.terminating, p.ready) {
        (true, _) => Some(format!("{} is being deleted", p.name)),
        (_, false) => Some(format!("{} is not Ready", p.name)),
        _ => None,
    })
}

/// Gives the label back; the agent comes with it, or is owed.
pub(super) fn undo_stop(cx: &mut Context, agent: &Agent, before: &Before) -> Result<()> {
    let Before::Label { value } = before else { return Ok(()) };
    let debt = Debt::Label { value: value.clone() };
    if cx.api.set_label(value.as_deref())? {
        cx.no_longer_owed(&debt)?;
        // A kubelet that an earlier try had to stop is what starts the agent's pod.
        debts::pay_units(cx)?;
        // After a reboot kubelet may have started the other one again, whose device is in this one's way.
        super::clean_again(cx)?;
        return await_serving(cx, agent).map(drop);
    }
    cx.owe(debt)?;
    cx.owe(Debt::AwaitAgent { agent: Box::new(agent.clone()) })
}

/// Takes the label back, sees the agent off, and removes what it had begun to make.
pub(super) fn undo_start(cx: &mut Context, agent: &Agent, before: &Before) -> Result<()> {
    let Before::Label { value } = before else { return Ok(()) };
    let debt = Debt::Label { value: value.clone() };
    if cx.api.set_label(value.as_deref())? {
        cx.no_longer_owed(&debt)?;
        await_gone(cx, agent)?;
    } else {
        cx.owe(debt)?;
        end_without_api(cx, agent)?;
    }
    clean::remove_all(cx, agent.cni, &agent.scope, &agent.overlays().collect::<Vec<_>>())
}

/// Ends the agent with kubelet held back, so that it does not come again.
fn end_without_api(cx: &mut Context, agent: &Agent) -> Result<()> {
    for unit in KUBELET_UNITS {
        if systemd::unit(unit)?.is_some_and(|u| u.active == "active" || u.active == "activating") {
            // Owed before it is done: a crash in between must not leave kubelet down for good.
            cx.owe(Debt::StartUnit { unit: unit.to_owned() })?;
            systemd::stop(unit, Duration::from_secs(60))?;
        }
    }
    for sandbox in cx.cri()?.sandboxes()?.iter().filter(|s| is_sandbox_of(s, agent)) {
        cx.cri()?.stop_sandbox(&sandbox.id)?;
    }
    await_gone(cx, agent)
}

pub(super) fn condition_before(cx: &mut Context) -> Result<Before> {
    let node = cx.api.get_node()?;
    Ok(Before::Condition { value: api::network_unavailable(&node).cloned() })
}

/// Says that the network is available where the agent has not said so itself.
pub(super) fn mark_available(cx: &mut Context, by: Cni) -> Result<Value> {
    let node = cx.api.get_node()?;
    let condition = api::network_unavailable(&node);
    let own = condition.and_then(|c| c["reason"].as_str()).is_some_and(|r| r.starts_with(by_reason(by)));
    if own && condition.is_some_and(|c| c["status"] == "False") {
        return Ok(json!({ "set": false }));
    }
    let now = crate::clock::now();
    let condition = json!({
        "type": "NetworkUnavailable", "status": "False", "reason": format!("{}IsUp", by_reason(by)),
        "message": format!("{by} is running on this node"), "lastTransitionTime": now, "lastHeartbeatTime": now,
    });
    if !cx.api.set_condition(&condition)? {
        bail!("the API server does not answer. To fix it: see that it is reachable from this node");
    }
    Ok(json!({ "set": true }))
}

/// How the agents begin the condition's reason.
fn by_reason(cni: Cni) -> &'static str {
    match cni {
        Cni::Flannel => "Flannel",
        Cni::Calico => "Calico",
    }
}

pub(super) fn undo_condition(cx: &mut Context, before: &Before) -> Result<()> {
    let Before::Condition { value: Some(value) } = before else { return Ok(()) };
    let debt = Debt::Condition { value: value.clone() };
    if cx.api.set_condition(value)? { cx.no_longer_owed(&debt) } else { cx.owe(debt) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(cni: Cni, namespace: &str, daemonset: &str, canal: bool) -> Agent {
        serde_json::from_value(json!({
            "cni": cni, "namespace": namespace, "daemonset": daemonset, "conflist": "", "binaries": [],
            "overlay": "flannel.1", "timeout_s": 60,
            "scope": {
                "cluster_cidr": "10.244.0.0/16", "pod_cidr": "10.244.1.0/24", "vni": 1, "network": "cbr0", "conflist": "",
                "conf_dir": "", "bin_dir": "", "interface_prefix": "cali", "canal": canal
            }
        }))
        .unwrap()
    }

    fn sandbox(namespace: &str, name: &str) -> Sandbox {
        Sandbox { namespace: namespace.into(), name: name.into(), ..Sandbox::default() }
    }

    #[test]
    fn calicos_calico_node_does_not_keep_canal_here_nor_canals_calico() {
        let process = |name: &str| Process { name: name.into(), ..Process::default() };
        let [canal, calico] = [(Cni::Flannel, "canal"), (Cni::Calico, "calico-node")]
            .map(|(cni, name)| agent(cni, "kube-system", name, true));
        let [canals, calicos] = ["canal-x7k2p", "calico-node-b4d9z"].map(|name| sandbox("kube-system", name));
        assert!(!is_process_of(&process("calico-node"), &canal) && !is_sandbox_of(&calicos, &canal));
        assert!(!is_process_of(&process("calico-node"), &calico) && !is_sandbox_of(&canals, &calico));
        assert!(is_process_of(&process("flanneld"), &canal) && is_sandbox_of(&canals, &canal));
        assert!(!is_process_of(&process("flanneld"), &calico) && is_sandbox_of(&calicos, &calico));
        let beside_flannel = agent(Cni::Calico, "kube-system", "calico-node", false);
        assert!(is_process_of(&process("calico-node"), &beside_flannel));
    }

    #[test]
    fn a_daemon_set_with_a_longer_name_is_another() {
        let agent = agent(Cni::Flannel, "kube-flannel", "kube-flannel-ds", false);
        assert!(is_sandbox_of(&sandbox("kube-flannel", "kube-flannel-ds-x7k2p"), &agent));
        assert!(!is_sandbox_of(&sandbox("kube-flannel", "kube-flannel-ds-arm-x7k2p"), &agent));
        assert!(!is_sandbox_of(&sandbox("kube-flannel", "kube-flannel-ds-x-7k2p"), &agent));
        assert!(!is_sandbox_of(&sandbox("default", "kube-flannel-ds-x7k2p"), &agent));
        let long = Agent { daemonset: "d".repeat(60), ..agent };
        assert!(is_sandbox_of(&sandbox("kube-flannel", &format!("{}x7k2p", "d".repeat(58))), &long));
    }
}
