//! Paying what a revert without the API server had to leave undone.

use std::time::Duration;

use anyhow::{Result, bail};

use super::{Context, agent, attachment, clean, records};
use crate::cni::Cni;
use crate::facts::Pod;
use crate::host::systemd;
use crate::journal::{Debt, Record};
use crate::step::Step;

/// Pays one debt. An error leaves it owed.
pub fn pay(debt: &Debt, cx: &mut Context) -> Result<()> {
    if cx.api.is_dead() {
        // Found so while undoing: what needs it would only wait for its time limits.
        bail!("the API server does not answer");
    }
    let reached = match debt {
        Debt::Label { value } => cx.api.set_label(value.as_deref())?,
        Debt::Unschedulable { value } => cx.api.set_unschedulable(*value)?,
        Debt::Condition { value } => cx.api.set_condition(value)?,
        Debt::StartUnit { unit } => {
            await_unwanted(cx)?;
            systemd::start(unit, Duration::from_secs(60))?;
            true
        }
        Debt::AwaitAgent { agent } => {
            // After a reboot kubelet had started the other one, as the label then asked: while its device has the VNI and the
            // port, this one cannot serve.
            super::clean_again(cx)?;
            agent::await_serving(cx, agent)?;
            true
        }
        Debt::PendingDels => {
            finish_dels(cx)?;
            true
        }
        Debt::Unclaim { pod, calico } => {
            records::forget(cx, pod, calico)?;
            true
        }
        Debt::Reclaim { pod } => {
            records::know_again(cx, pod)?;
            true
        }
    };
    if !reached {
        bail!("the API server still does not answer");
    }
    Ok(())
}

/// Runs the kept DELs, then removes what was left for their sake: Calico's plugin with its credentials.
fn finish_dels(cx: &mut Context) -> Result<()> {
    attachment::drain_pending(cx)?;
    let plan = cx.plan;
    // What is owed besides needs them still.
    let others = cx.journal.log()?.debts().into_iter().any(|debt| debt.is_leftover() && debt != Debt::PendingDels);
    if plan.from == Cni::Calico || others {
        return Ok(());
    }
    if let Some(agent) = plan.steps.iter().find_map(|s| match s {
        Step::StartAgent(agent) if agent.cni == Cni::Calico => Some(agent),
        _ => None,
    }) {
        clean::remove_files(cx, agent.cni, &agent.scope)?;
    }
    Ok(())
}

/// Starts the units that are owed, where the API server answers again.
pub(super) fn pay_units(cx: &mut Context) -> Result<()> {
    for debt in cx.journal.log()?.debts() {
        if matches!(debt, Debt::StartUnit { .. }) {
            pay(&debt, cx)?;
            cx.journal.append(&Record::Paid { debt })?;
        }
    }
    Ok(())
}

/// Waits until no pod is wanted here of an agent that the node's label does not ask for: kubelet, when it starts, would
/// start such a pod's containers again before the DaemonSet's controller has taken it away.
fn await_unwanted(cx: &mut Context) -> Result<()> {
    let label = cx.api.label()?;
    let unwanted: Vec<(String, String)> =
        [(Cni::Flannel, &cx.plan.prepared.flannel), (Cni::Calico, &cx.plan.prepared.calico)]
            .into_iter()
            .filter(|(cni, _)| label.as_deref() != Some(cni.name()))
            .map(|(_, info)| (info.namespace.clone(), info.daemonset.clone()))
            .collect();
    let (api, stop) = (&cx.api, cx.stop);
    let gone = stop.keep_asking(Duration::from_secs(60), || {
        let pods: Vec<Pod> = api.pods()?;
        let stays = |p: &Pod| {
            let owner = p.controller.as_ref().map(|(_, name)| (p.namespace.clone(), name.clone()));
            !p.terminating && owner.is_some_and(|o| unwanted.contains(&o))
        };
        Ok((!pods.iter().any(stays)).then_some(()))
    })?;
    if gone.is_none() {
        bail!("the DaemonSet's controller has not taken the other agent's pod off this node within 60 s");
    }
    Ok(())
}
