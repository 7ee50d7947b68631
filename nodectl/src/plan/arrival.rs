//! Whether a node is where it is wanted already. Its network configuration alone does not say so: a leftover one names a CNI
//! whose agent has never run here.

use super::{SHIM_CONFLIST, current_cni};
use crate::cni::{Cni, NODE_LABEL};
use crate::facts::{ClusterView, Facts};

/// Where a node is, seen from the CNI that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// Its new pods get the other CNI, or it cannot be told which.
    Elsewhere,
    /// It is on the CNI that is wanted: there is nothing to do.
    There,
    /// Its new pods get the CNI that is wanted, and something else of the node is not on it: a sentence each.
    Half(Vec<String>),
}

/// Where the node is. What could not be looked at counts as being amiss.
pub fn arrival(facts: &Facts, to: Cni) -> Arrival {
    if current_cni(facts) != Some(to) {
        return Arrival::Elsewhere;
    }
    let mut amiss: Vec<String> = ["processes", "shim", "runs"]
        .iter()
        .filter_map(|part| Some(format!("{part}: could not be looked at ({})", facts.unobserved.get(*part)?)))
        .collect();
    if let Some(lacking) = facts.agent_lacks(to).filter(|_| !facts.unobserved.contains_key("processes")) {
        amiss.push(format!("{lacking} does not run"));
    }
    if facts.agent_runs(to.other()) {
        amiss.push(format!("{} runs", to.other().process()));
    }
    match facts.shim.mode.as_deref() {
        Some(mode) if mode != to.name() => amiss.push(format!("the shim's mode is {mode}")),
        None if facts.files.conf_names.iter().any(|name| name == SHIM_CONFLIST) => {
            amiss.push("the shim's state is missing (`nodectl doctor` says what to write)".into());
        }
        _ => {}
    }
    match &facts.cluster {
        Some(view) => amiss.extend(label_amiss(view, to)),
        None => amiss.push(format!(
            "the label {NODE_LABEL} could not be read ({})",
            facts.unobserved.get("cluster").map_or("the API server was not asked", String::as_str)
        )),
    }
    if amiss.is_empty() { Arrival::There } else { Arrival::Half(amiss) }
}

/// `cluster finish` takes the label away together with the preparation: then there is no label to steer by any more.
fn label_amiss(view: &ClusterView, to: Cni) -> Option<String> {
    match view.labels.get(NODE_LABEL) {
        Some(label) if label == to.name() => None,
        Some(label) => Some(format!("the label {NODE_LABEL} is {label}")),
        None if view.prepared.is_none() => None,
        None => Some(format!("the label {NODE_LABEL} is absent")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Process;

    /// A node on Calico, without the shim.
    fn on_calico() -> Facts {
        let mut facts = Facts { cluster: Some(ClusterView::default()), ..Facts::default() };
        facts.files.conf_names = vec!["10-calico.conflist".into()];
        let conf = serde_json::json!({"plugins": [{"type": "calico"}]});
        facts.files.confs.insert("10-calico.conflist".into(), conf);
        facts.processes = vec![Process { name: "calico-node".into(), ..Process::default() }];
        label(&mut facts, "calico");
        facts
    }

    fn label(facts: &mut Facts, value: &str) {
        if let Some(view) = &mut facts.cluster {
            view.labels.insert(NODE_LABEL.into(), value.into());
        }
    }

    fn amiss(change: impl FnOnce(&mut Facts)) -> String {
        let mut facts = on_calico();
        change(&mut facts);
        match arrival(&facts, Cni::Calico) {
            Arrival::Half(amiss) => amiss.join("; "),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_node_is_there_when_agent_label_and_shim_say_so() {
        assert_eq!(arrival(&on_calico(), Cni::Calico), Arrival::There);
        assert_eq!(arrival(&on_calico(), Cni::Flannel), Arrival::Elsewhere);
        assert_eq!(arrival(&Facts::default(), Cni::Calico), Arrival::Elsewhere);
        // After `cluster finish` there is neither label nor preparation.
        assert_eq!(amiss(|facts| facts.cluster = Some(ClusterView::default())), "There");
        assert_eq!(amiss(|facts| facts.shim.mode = Some("calico".into())), "There");
    }

    #[test]
    fn on_canal_both_processes_have_to_run() {
        let mut facts = on_calico();
        let conf = serde_json::json!({"plugins": [{"type": "calico", "ipam": {"type": "host-local"}}]});
        facts.files.confs = [("10-canal.conflist".to_owned(), conf)].into();
        facts.files.conf_names = vec!["10-canal.conflist".into()];
        label(&mut facts, "flannel");
        let arrived = |facts: &Facts, names: &[&str]| {
            let processes = names.iter().map(|name| Process { name: (*name).into(), ..Process::default() }).collect();
            arrival(&Facts { processes, ..facts.clone() }, Cni::Flannel)
        };
        let half = |why: &str| Arrival::Half(vec![why.to_owned()]);
        assert_eq!(arrived(&facts, &["flanneld", "calico-node"]), Arrival::There);
        assert_eq!(arrived(&facts, &["flanneld"]), half("calico-node does not run"));
        assert_eq!(arrived(&facts, &[]), half("flanneld does not run"));
    }

    #[test]
    fn whatever_differs_is_named() {
        // A stray conflist on a flannel node.
        let stray = amiss(|facts| {
            facts.processes[0].name = "flanneld".into();
            label(facts, "flannel");
        });
        assert_eq!(stray, "calico-node does not run; flanneld runs; the label nodectl.io/cni is flannel");
        assert_eq!(amiss(|facts| label(facts, "none")), "the label nodectl.io/cni is none");
        assert_eq!(amiss(|facts| facts.shim.mode = Some("hold".into())), "the shim's mode is hold");
        let without_state = amiss(|facts| facts.files.conf_names.insert(0, SHIM_CONFLIST.into()));
        assert!(without_state.starts_with("the shim's state is missing"), "{without_state}");
        let unread = |part: &str| amiss(|facts| drop(facts.unobserved.insert(part.into(), "why".into())));
        assert_eq!(unread("runs"), "runs: could not be looked at (why)");
        assert_eq!(unread("shim"), "shim: could not be looked at (why)");
        let dead = amiss(|facts| {
            facts.cluster = None;
            facts.unobserved.insert("cluster".into(), "refused".into());
        });
        assert_eq!(dead, "the label nodectl.io/cni could not be read (refused)");
        let absent = amiss(|facts| {
            facts.cluster = Some(ClusterView { prepared: Some(Err("broken".into())), ..ClusterView::default() });
        });
        assert_eq!(absent, "the label nodectl.io/cni is absent");
    }
}
