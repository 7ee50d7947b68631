//! Looking at the node with all that a decision needs, the server's answers to `dryRun=All` included.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cni::NODE_LABEL;
use crate::facts::{ClusterView, Facts, Pod};
use crate::host::Host;
use crate::host::kube::{Kube, KubeError, Patch, Write};
use crate::plan::moves;
use crate::request::Strategy;

/// Requests to the API server at one time.
const ASKING_AT_ONCE: usize = 8;

/// The facts, with what the server refuses and which evictions it would allow.
pub(super) fn look(host: &Host, strategy: Strategy) -> Facts {
    let mut facts = crate::observe::node(host);
    if strategy == Strategy::InPlace {
        crate::observe::plumbing(host, &mut facts);
    }
    if let (Some(view), Ok(kube)) = (&mut facts.cluster, Kube::for_node(host)) {
        view.refused = Some(refused(&kube, view));
        ask_evictions(&kube, &mut view.pods);
    }
    facts
}

/// Asks whether each pod that moves may be evicted now; side by side, since a node may have some hundred.
fn ask_evictions(kube: &Kube, pods: &mut [Pod]) {
    let mut moving: Vec<&mut Pod> = pods.iter_mut().filter(|p| moves(p) && p.phase == "Running").collect();
    let share = moving.len().div_ceil(ASKING_AT_ONCE).max(1);
    std::thread::scope(|scope| {
        for pods in moving.chunks_mut(share) {
            scope.spawn(|| {
                for pod in pods {
                    let answer = kube.may_evict(&pod.namespace, &pod.name, &pod.uid);
                    pod.eviction = Some(answer.unwrap_or_else(|error| Some(error.to_string())));
                }
            });
        }
    });
}

/// The switch's own requests, asked without effect: admission refuses what access reviews allow.
fn refused(kube: &Kube, view: &ClusterView) -> BTreeMap<String, String> {
    let path = format!("/api/v1/nodes/{}", view.node);
    let ask = |path: &str, patch: Patch, document: Value| kube.patch(path, patch, &document, Write::DRY);
    let condition = json!({"status": {"conditions": [{
        "type": "NetworkUnavailable", "status": "False", "reason": "FlannelIsUp", "message": "asked with dryRun",
    }]}});
    let asked: [(&str, Result<Value, KubeError>); 3] = [
        ("label", ask(&path, Patch::Merge, json!({"metadata": {"labels": {NODE_LABEL: "none"}}}))),
        ("cordon", ask(&path, Patch::Merge, json!({"spec": {"unschedulable": true}}))),
        ("condition", ask(&format!("{path}/status"), Patch::Strategic, condition)),
    ];
    asked.into_iter().filter_map(|(what, answer)| Some((what.to_owned(), answer.err()?.to_string()))).collect()
}
