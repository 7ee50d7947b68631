//! Calico -> flannel, takeover of the overlay. Not the other direction backwards: Calico's plugin needs its agent's
//! fresh credentials to delete attachments, blackholes go before cni0 serves, and Calico's chains go after flannel's stand.

use super::parts;
use crate::cni::Cni;
use crate::facts::{ClusterView, Facts};
use crate::prepared::Prepared;
use crate::request::Request;
use crate::step::Step;

/// The steps and what will happen to whom.
pub fn steps(facts: &Facts, cluster: &ClusterView, prepared: &Prepared, request: &Request) -> (Vec<Step>, Vec<String>) {
    let flannel = parts::agent(facts, prepared, Cni::Flannel, request.agent_timeout_s);
    let calico = parts::agent(facts, prepared, Cni::Calico, request.agent_timeout_s);
    let mut steps = parts::prologue(facts, prepared, Cni::Calico);
    steps.extend(parts::drain(cluster, request));
    // After the eviction, which may take an hour: what answered then may have left the cluster since.
    steps.push(Step::Baseline { targets: parts::targets(facts, prepared, Cni::Calico) });
    steps.push(Step::Hold { next: Cni::Flannel });
    // Before calico-node leaves: its plugin's token is kept fresh only while it runs.
    steps.push(Step::StopSandboxes { made_by: Cni::Calico, pods: parts::staying(cluster) });
    steps.push(Step::StopAgent(calico.clone()));
    steps.push(Step::RenameOverlay { from: calico.overlay.clone(), to: flannel.overlay.clone() });
    steps.push(Step::StartAgent(flannel));
    // After flannel's chains stand (a node with FORWARD DROP forwards by them), before the first attachment makes cni0.
    steps.push(Step::Clean { cni: Cni::Calico, scope: calico.scope });
    // calico-node's preStop sets NetworkUnavailable; flannel clears it once, when it starts.
    steps.push(Step::MarkNetworkAvailable { by: Cni::Flannel });
    steps.push(Step::Probe { via: Cni::Flannel, targets: parts::targets(facts, prepared, Cni::Calico) });
    steps.push(Step::Release { to: Cni::Flannel });
    steps.push(Step::AwaitPods {
        made_by: Cni::Flannel,
        pods: parts::connected(facts, cluster),
        timeout_s: request.agent_timeout_s,
    });
    if !cluster.unschedulable {
        steps.push(Step::Uncordon);
    }
    if !facts.units.is_empty() {
        steps.push(Step::DisableBootUnits { units: parts::BOOT_UNITS.map(str::to_owned).to_vec() });
    }
    (steps, parts::pod_notes(facts, cluster))
}
