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
    // Cordon, evict, baseline, hold.
    steps.extend(parts::quiesce(facts, cluster, prepared, request));
    // Before calico-node leaves: its plugin's token is kept fresh only while it runs.
    steps.push(Step::StopSandboxes { made_by: Cni::Calico, pods: parts::staying(cluster), spare: Vec::new() });
    steps.push(Step::StopAgent(calico.clone()));
    let overlays = calico.overlays().zip(flannel.overlays());
    steps.extend(overlays.map(|(from, to)| Step::RenameOverlay { from: from.to_owned(), to: to.to_owned() }));
    steps.push(Step::StartAgent(flannel));
    // After flannel's chains stand (a node with FORWARD DROP forwards by them), before the first attachment makes cni0.
    steps.push(Step::Clean { cni: Cni::Calico, scope: calico.scope });
    // calico-node's preStop sets NetworkUnavailable; flannel clears it once, when it starts.
    steps.push(Step::MarkNetworkAvailable { by: Cni::Flannel });
    // Probe, release, await pods, uncordon.
    steps.extend(parts::reopen(facts, cluster, prepared, request));
    steps.extend(parts::epilogue(facts));
    (steps, parts::pod_notes(facts, cluster))
}
