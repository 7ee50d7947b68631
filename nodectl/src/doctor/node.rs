//! The node as the checks look at it: the facts, and for each CNI what it has here and whether it is in use.

use std::collections::BTreeMap;

use crate::cleanup::refusals;
use crate::cni::Cni;
use crate::facts::{Facts, Traces};
use crate::ownership::known::owner_of_configuration;
use crate::ownership::{self, Inventory, Known, attachments};

/// What cleanups that were killed before their end had known, by CNI.
pub type Begun = BTreeMap<Cni, Known>;

/// An attachment that is younger may belong to a pod that is just being made: the runtime lists a sandbox only when all of it
/// has started. In seconds.
const YOUNG: i64 = 300;

/// The node.
pub struct Node<'f> {
    /// What was seen.
    pub facts: &'f Facts,
    /// flannel here.
    pub flannel: Side,
    /// Calico here.
    pub calico: Side,
    /// It is on Canal, which has parts of both: each side serves where one does.
    pub canal: bool,
    /// Cleanups that have not ended.
    pub begun: Vec<Cni>,
}

/// A CNI on the node.
pub struct Side {
    /// Which.
    pub cni: Cni,
    /// It serves the node, or is meant to.
    pub in_use: bool,
    /// Its agent runs.
    pub agent: bool,
    /// What is known of its network.
    pub known: Known,
    /// What it has here.
    pub inventory: Inventory,
}

impl<'f> Node<'f> {
    /// From the facts; `begun` is what killed cleanups knew.
    pub fn new(facts: &'f Facts, begun: &Begun) -> Node<'f> {
        let canal = facts.is_on_canal();
        let side = |cni: Cni| {
            let mut known = Known::of(facts, cni);
            if let Some(before) = begun.get(&cni) {
                known.add(before);
            }
            Side {
                cni,
                in_use: in_use(facts, cni) || canal && in_use(facts, cni.other()),
                agent: refusals::agents(facts, cni).next().is_some(),
                inventory: ownership::inventory(facts, cni, &known),
                known,
            }
        };
        let (flannel, calico) = (side(Cni::Flannel), side(Cni::Calico));
        Node { facts, flannel, calico, canal, begun: begun.keys().copied().collect() }
    }

    /// Both.
    pub fn sides(&self) -> [&Side; 2] {
        [&self.flannel, &self.calico]
    }

    /// One of them.
    pub fn side(&self, cni: Cni) -> &Side {
        match cni {
            Cni::Flannel => &self.flannel,
            Cni::Calico => &self.calico,
        }
    }

    /// What CNIs leave.
    pub fn traces(&self) -> Option<&'f Traces> {
        self.facts.traces.as_deref()
    }

    /// The runtime answers, does not know the container, and nothing of it is young.
    pub fn is_gone(&self, container: &str) -> bool {
        let Some(runtime) = &self.facts.runtime else { return false };
        let known = runtime.sandboxes.iter().any(|s| s.id == container);
        let mut notes = self.traces().into_iter().flat_map(|t| &t.notes).filter(|n| n.container == container);
        !known && notes.all(|n| self.facts.observed_at.saturating_sub(n.since) > YOUNG)
    }

    /// Whether a network of this name is one of the two CNIs'.
    pub fn is_ours(&self, network: &str) -> bool {
        self.sides().iter().any(|side| side.known.is_named(network))
    }

    /// The first configuration that is a CNI's own, and what it says.
    pub fn first_configuration(&self) -> Option<(&'f str, &'f serde_json::Value)> {
        refusals::first_configuration(self.facts)
    }
}

/// Whether the CNI serves this node: its agent runs, the node's state names it, living pods hang on it, or new pods get it and
/// nobody else's agent is here.
fn in_use(facts: &Facts, cni: Cni) -> bool {
    let runs = |cni| refusals::agents(facts, cni).next().is_some();
    let by_state = facts.shim.mode.as_deref().is_some_and(|mode| mode == cni.name() || mode == "hold");
    let by_pods = facts.runtime.is_some() && attachments::attached(facts, cni).iter().any(|a| a.pod.is_some());
    let first = refusals::first_configuration(facts).and_then(|(_, conf)| owner_of_configuration(conf));
    let by_default = refusals::kubelet_runs(facts) && first == Some(cni) && !runs(cni.other());
    runs(cni) || by_state || by_pods || by_default
}
