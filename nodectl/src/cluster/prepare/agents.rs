//! flannel's DaemonSets: where they run from now on.

use crate::cluster::change::Change;
use crate::cluster::check::listed;
use crate::cluster::daemon_set as ds;
use crate::cluster::decision::Survey;
use crate::cluster::flannel::Flannel;
use crate::cluster::object::{Kind, ObjectRef, find_in};
use crate::cni::{Cni, NODE_LABEL};

/// flannel runs only where the label asks for it.
pub fn changes(survey: &Survey, flannel: &Flannel) -> Vec<Change> {
    let change = |name: &String| {
        let existing = find_in(&survey.facts.daemon_sets, &flannel.namespace, name)?;
        let wanted = ds::with_our_selector(existing, Cni::Flannel);
        let target = ObjectRef::namespaced(Kind::DaemonSet, &flannel.namespace, name);
        let reason =
            "flannel leaves a node when the node's label says so; this replaces flannel's pods one after the other";
        Change::update(target, existing, wanted, reason)
    };
    flannel.daemon_sets.iter().filter_map(change).collect()
}

/// Pods from before the node selector: the kubelet would keep them, and a switched node with them.
pub fn pending(survey: &Survey, flannel: &Flannel) -> Vec<String> {
    if !flannel.selects_our_label {
        return Vec::new();
    }
    let nodes = survey.nodes_with(|p| survey.is_flannel(p) && !p.node_selector.contains_key(NODE_LABEL));
    if nodes.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "flannel's pod on {} is still the one from before the node selector and has to be replaced (a DaemonSet with the update strategy OnDelete waits for you to delete it)",
        listed(&nodes)
    )]
}
