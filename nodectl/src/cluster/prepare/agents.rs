//! flannel's DaemonSets: where they run from now on.

use serde_json::{Value, json};

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
        let wanted = match flannel.canal {
            true => canal_beside_calico(existing),
            false => ds::with_our_selector(existing, Cni::Flannel),
        };
        let target = ObjectRef::namespaced(Kind::DaemonSet, &flannel.namespace, name);
        let reason = match flannel.canal {
            true => {
                "Canal leaves a node when the node's label says so, and its felix must not take to VXLAN when Calico's pool comes; \
                 this replaces Canal's pods one after the other"
            }
            false => {
                "flannel leaves a node when the node's label says so; this replaces flannel's pods one after the other"
            }
        };
        Change::update(target, existing, wanted, reason)
    };
    flannel.daemon_sets.iter().filter_map(change).collect()
}

/// Canal's DaemonSet with our node selector, and with a felix that leaves VXLAN to Calico's own nodes: it would make a device of its
/// own beside flannel's, or not be ready where it cannot.
pub fn canal_beside_calico(daemon_set: &Value) -> Value {
    let off = json!({"name": ds::VXLAN_SWITCH, "value": "false"});
    ds::with_variable(&ds::with_our_selector(daemon_set, Cni::Flannel), ds::VXLAN_SWITCH, Some(&off))
}

/// What happens to the pods.
pub fn note(flannel: &Flannel) -> String {
    let (whose, what) = match flannel.canal {
        true => (
            "Canal",
            "its DaemonSet has the node selector and the variable; nothing else is written before they all are",
        ),
        false => ("flannel", "its DaemonSet has the node selector"),
    };
    format!("{whose}'s pods are replaced one after the other once {what}; pods keep their network meanwhile")
}

/// What the settings have to wait for on Canal: pods of its that would take to VXLAN.
pub fn gate(survey: &Survey, changes: bool) -> Option<String> {
    if changes {
        return Some("Canal's pods to be replaced".to_owned());
    }
    survey.replacement_of("Canal", |p| survey.is_flannel(p) && !p.leaves_vxlan_alone)
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
