//! The shim on this node, as people read it and decisions use it: where new pods go, what it remembers, what it still has to
//! do, and what still needs it. Plain data and pure functions; [`crate::observe::shim_view`] fills it in.

use std::collections::BTreeMap;

use cni_store::record::{Phase, Pod, Record};
use cni_store::state::{Mode, State};
use serde::{Deserialize, Serialize};

use crate::cni::Cni;
use crate::step::words::{count, some};

/// The shim on this node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShimView {
    /// Its conflist is there.
    pub installed: bool,
    /// Path of its conflist.
    pub conflist: String,
    /// Path of its binary, where the runtime looks for plugins.
    pub binary: String,
    /// The binary is there.
    pub has_binary: bool,
    /// The binary is not the packaged one.
    pub outdated: bool,
    /// Network configurations that sort before it: the runtime uses the first of them and never calls the shim.
    pub ahead: Vec<String>,
    /// Where new pods go; `None` where there is no state, or none that can be read.
    pub state: Option<State>,
    /// The CNI that serves new pods, or did before the hold.
    pub cni: Option<Cni>,
    /// That CNI's own network, which serves once the shim is gone; `None` where its conflist cannot be read.
    pub native: Option<Native>,
    /// What it remembers.
    pub attachments: Vec<Attachment>,
    /// Path of a state that cannot be read, and whose copy cannot either.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_state: Option<String>,
    /// Files that should be records but cannot be read.
    pub unreadable: Vec<String>,
    /// DELs that are still to be done.
    pub pending: Vec<PendingDel>,
    /// ADDs that wait in a hold.
    pub waiting: Vec<WaitingAdd>,
    /// Living sandboxes that were attached through the shim, as the runtime's cache says, and have no record.
    pub unrecorded: Vec<String>,
    /// The runtime says which sandboxes live.
    pub runtime_answers: bool,
}

/// A CNI's own network on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Native {
    /// Path of its conflist.
    pub conflist: String,
    /// The network's name.
    pub network: String,
    /// Types of its plugins.
    pub plugins: Vec<String>,
}

/// One attachment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    /// The sandbox.
    pub container: String,
    /// The interface in it.
    pub interface: String,
    /// `namespace/name`, where the runtime told.
    pub pod: Option<String>,
    /// The CNI that made it.
    pub cni: Cni,
    /// `intent`, `added` or `deleting`.
    pub phase: Phase,
    /// Networks whose DELs will run, in order.
    pub networks: Vec<String>,
    /// When its ADD began, Unix milliseconds.
    pub since_ms: u64,
    /// Made from evidence: the sandbox is older than the shim.
    pub imported: bool,
    /// The runtime knows the sandbox; `None` where the runtime does not answer.
    pub alive: Option<bool>,
    /// The native network's own DEL does all that the recorded one would.
    pub native: bool,
}

/// A DEL that is still to be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PendingDel {
    /// The sandbox.
    pub container: String,
    /// The interface in it.
    pub interface: String,
    /// `namespace/name`, where known.
    pub pod: Option<String>,
    /// How often it was tried.
    pub attempts: u32,
    /// Why the last try failed.
    pub error: String,
    /// The first try, Unix milliseconds.
    pub since_ms: u64,
    /// The last try, Unix milliseconds.
    pub tried_ms: u64,
}

/// An ADD that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WaitingAdd {
    /// The sandbox.
    pub container: String,
    /// The interface in it.
    pub interface: String,
    /// `namespace/name`, where the runtime told.
    pub pod: Option<String>,
    /// Since when, Unix milliseconds.
    pub since_ms: u64,
    /// When it gives up, Unix milliseconds.
    pub deadline_ms: u64,
}

impl Attachment {
    /// From a record. `alive`: whether the runtime knows its sandbox.
    pub fn new(record: &Record, native: Option<&Native>, alive: Option<bool>) -> Attachment {
        Attachment {
            container: record.container_id.clone(),
            interface: record.ifname.clone(),
            pod: record.pod.as_ref().map(Pod::full_name),
            cni: record.backend.into(),
            phase: record.phase,
            networks: record.del.iter().map(|list| list.network.clone()).collect(),
            since_ms: record.created_ms,
            imported: record.imported,
            alive,
            native: native.is_some_and(|native| is_native(record, native)),
        }
    }

    /// For people: the pod, or the sandbox where no pod is known.
    pub fn name(&self) -> String {
        self.pod.clone().unwrap_or_else(|| format!("{} of {}", self.interface, self.container))
    }
}

/// Whether the native network's own DEL does all that the recorded one would: the same one network, and no plugin besides
/// its own. An adopted pod has two networks; one of which only an address was found has host-local alone.
fn is_native(record: &Record, native: &Native) -> bool {
    let [list] = record.del.as_slice() else { return false };
    let kinds: Vec<&String> = list.plugins.iter().map(|plugin| &plugin.kind).collect();
    list.network == native.network
        && kinds.first() == native.plugins.first().as_ref()
        && kinds.iter().all(|kind| native.plugins.contains(kind))
}

impl ShimView {
    /// Attachments by the CNI that made them.
    pub fn by_cni(&self) -> BTreeMap<Cni, usize> {
        let mut counts = BTreeMap::new();
        self.attachments.iter().for_each(|a| *counts.entry(a.cni).or_default() += 1);
        counts
    }

    /// What is wrong or owed, a sentence each.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(first) = self.ahead.first().filter(|_| self.installed) {
            problems.push(format!(
                "{first} sorts before {}, so the runtime uses it and never calls the shim. To fix it: rename or remove that \
                 file, or the tool that writes it",
                self.conflist
            ));
        }
        if self.installed && !self.has_binary {
            problems.push(format!(
                "{} is missing, so no pod can be attached or detached. To fix it: run `nodectl shim upgrade`, which copies \
                 the packaged cni-shim there",
                self.binary
            ));
        }
        if self.outdated {
            problems.push(format!(
                "{} is not the packaged cni-shim, so pods are attached and detached by another version. To fix it: run `nodectl \
                 shim upgrade`",
                self.binary
            ));
        }
        if let Some(path) = &self.lost_state {
            problems.push(format!(
                "{path} cannot be read, nor can its copy, so no pod can be attached. To fix it: `nodectl resume` or `nodectl \
                 revert` where a run is open; else write into it the CNI whose agent runs here, flannel or calico: {}",
                by_hand(Cni::Calico)
            ));
        } else if self.installed && self.state.is_none() {
            problems.push(format!(
                "the shim's state is missing, so new pods get {}, as {} has it. To fix it: `nodectl doctor` says what to write",
                self.cni.map_or("the default".to_owned(), |cni| cni.to_string()),
                self.conflist
            ));
        }
        problems.extend(self.unreadable.iter().map(|file| {
            format!(
                "{file} cannot be read. To fix it: run `nodectl shim reap` once its pod is gone: other evidence decides"
            )
        }));
        if !self.pending.is_empty() {
            let dels = count(self.pending.len(), "DEL");
            problems.push(format!("{dels} still to be done. To fix it: run `nodectl shim reap`"));
        }
        problems
    }

    /// What still needs the shim, a sentence each; empty where it can be retired.
    pub fn needed_for(&self) -> Vec<String> {
        let mut needs = Vec::new();
        if self.state.as_ref().is_some_and(|state| state.mode == Mode::Hold) || !self.waiting.is_empty() {
            let waiting = count(self.waiting.len(), "pod");
            needs.push(format!(
                "new attachments are held ({waiting} wait). To fix it: finish the switch that holds them, or take it back"
            ));
        }
        if let Some(path) = &self.lost_state {
            needs.push(format!("{path} cannot be read. To fix it: see the problems that `nodectl shim status` names"));
        }
        if !self.runtime_answers {
            needs.push(
                "the container runtime does not say which sandboxes live. To fix it: start it (systemctl start containerd)"
                    .into(),
            );
        }
        let Some(native) = &self.native else {
            needs.push(
                "no network of the node's CNI would take its place: its conflist is missing or cannot be read. To fix it: see \
                 the log of the agent's pod on this node"
                    .into(),
            );
            return needs;
        };
        let of = |test: &dyn Fn(&Attachment) -> bool| -> Vec<String> {
            self.attachments.iter().filter(|a| test(a)).map(Attachment::name).collect()
        };
        let gone = of(&|a| a.alive == Some(false) || a.phase != Phase::Added);
        if !gone.is_empty() {
            let n = count(gone.len(), "attachment");
            needs.push(format!(
                "{n} not deleted yet ({}). To fix it: run `nodectl shim reap` (which leaves a sandbox alone that was just made), \
                 and end containers that belong to no pod",
                some(&gone)
            ));
        }
        let foreign = of(&|a| !a.native && a.alive != Some(false) && a.phase == Phase::Added);
        if !foreign.is_empty() {
            needs.push(format!(
                "{} would not be deleted rightly by the network {} alone: {}. To fix it: delete these pods, so that they are made anew",
                count(foreign.len(), "attachment"),
                native.network,
                some(&foreign)
            ));
        }
        if !self.unrecorded.is_empty() {
            needs.push(format!(
                "the records of {} are lost: {}. To fix it: delete these pods",
                count(self.unrecorded.len(), "attachment"),
                some(&self.unrecorded)
            ));
        }
        if !self.pending.is_empty() || !self.unreadable.is_empty() {
            needs.push(format!(
                "{} still to be done, {} cannot be read. To fix it: run `nodectl shim reap`",
                count(self.pending.len(), "DEL"),
                count(self.unreadable.len(), "record")
            ));
        }
        needs
    }
}

/// A state that an administrator may write where the shim's own is lost.
pub fn by_hand(cni: Cni) -> String {
    format!("{{\"format\": 1, \"mode\": \"{}\"}}", cni.name())
}

#[cfg(test)]
mod tests {
    use cni_spec::chain::{DelList, PluginCall};
    use cni_store::state::Backend;

    use super::*;

    fn list(network: &str, kinds: &[&str]) -> DelList {
        let call = |kind: &&str| PluginCall { kind: (*kind).into(), path: "".into(), config: serde_json::Map::new() };
        DelList {
            network: network.into(),
            cni_version: "1.0.0".into(),
            plugins: kinds.iter().map(call).collect(),
            runtime_config: serde_json::Map::new(),
            args: "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web".into(),
            disable_check: false,
        }
    }

    fn view(lists: Vec<DelList>, change: impl FnOnce(&mut Record)) -> ShimView {
        let native = Native {
            conflist: "/etc/cni/net.d/10-calico.conflist".into(),
            network: "k8s-pod-network".into(),
            plugins: ["calico", "portmap"].map(str::to_owned).to_vec(),
        };
        let mut record = Record::new("c1", "eth0", Backend::Calico, lists);
        record.phase = Phase::Added;
        change(&mut record);
        ShimView {
            attachments: vec![Attachment::new(&record, Some(&native), Some(true))],
            state: Some(State::routed(Backend::Calico)),
            native: Some(native),
            runtime_answers: true,
            installed: true,
            has_binary: true,
            ..ShimView::default()
        }
    }

    #[test]
    fn only_what_the_native_network_deletes_as_well_can_do_without_the_shim() {
        let calico = || list("k8s-pod-network", &["calico", "portmap"]);
        assert!(view(vec![calico()], |_| {}).needed_for().is_empty());
        assert!(view(vec![list("k8s-pod-network", &["calico"])], |_| {}).needed_for().is_empty());
        let needed = [
            vec![list("cbr0", &["flannel", "portmap"])],
            // An adopted pod: Calico's list, and flannel's portmap.
            vec![calico(), list("cbr0", &["portmap"])],
            vec![list("k8s-pod-network", &["host-local"])],
            vec![list("k8s-pod-network", &["calico", "bandwidth"])],
            Vec::new(),
        ];
        for lists in needed {
            let needs = view(lists.clone(), |_| {}).needed_for();
            assert!(needs.len() == 1 && needs[0].contains("delete these pods"), "{lists:?}: {needs:?}");
        }
        let needs = view(vec![calico()], |record| record.phase = Phase::Deleting).needed_for();
        assert!(needs.len() == 1 && needs[0].contains("nodectl shim reap"), "{needs:?}");
    }

    #[test]
    fn each_need_has_its_sentence() {
        let calm = || view(vec![list("k8s-pod-network", &["calico"])], |_| {});
        let pending = PendingDel {
            container: "c2".into(),
            interface: "eth0".into(),
            pod: None,
            attempts: 1,
            error: "no".into(),
            since_ms: 0,
            tried_ms: 0,
        };
        let held = State { mode: Mode::Hold, ..State::routed(Backend::Calico) };
        let cases: [(ShimView, &str); 7] = [
            (ShimView { state: Some(held), ..calm() }, "are held"),
            (ShimView { runtime_answers: false, ..calm() }, "which sandboxes live"),
            (ShimView { lost_state: Some("/s".into()), ..calm() }, "/s cannot be read"),
            (ShimView { native: None, ..calm() }, "would take its place"),
            (ShimView { pending: vec![pending], ..calm() }, "1 DEL still to be done"),
            (ShimView { unreadable: vec!["/x".into()], ..calm() }, "1 record cannot be read"),
            (ShimView { unrecorded: (0..7).map(|n| format!("p{n}")).collect(), ..calm() }, "p4 and 2 more"),
        ];
        for (view, words) in cases {
            let needs = view.needed_for();
            assert!(needs.len() == 1 && needs[0].contains(words) && needs[0].contains("To fix it: "), "{needs:?}");
        }
    }

    #[test]
    fn row_34_a_list_that_sorts_before_the_shims_is_named() {
        let mut view = view(vec![list("k8s-pod-network", &["calico"])], |_| {});
        assert!(view.problems().is_empty());
        view.ahead = vec!["00-a.conf".into()];
        view.outdated = true;
        assert!(view.problems()[1].contains("nodectl shim upgrade") && view.needed_for().is_empty());
        view.outdated = false;
        view.has_binary = false;
        view.state = None;
        assert!(view.problems()[2].contains("state is missing"), "{:?}", view.problems());
        view.lost_state = Some("/var/lib/cni-shim/state.json".into());
        let problems = view.problems();
        assert!(problems[0].contains("00-a.conf sorts before") && problems[1].contains("is missing"), "{problems:?}");
        // The remedy must work: what it says to write is a state.
        let state = problems[2].split_once("calico: ").map(|(_, state)| state).unwrap_or_default();
        assert_eq!(State::parse(serde_json::from_str(state).unwrap_or_default()).map(|s| s.mode), Ok(Mode::Calico));
        assert!(problems.iter().all(|p| p.contains("To fix it: ")));
    }
}
