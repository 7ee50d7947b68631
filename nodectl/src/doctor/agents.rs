//! Agents, configurations and the shim: whether new pods get a network.

use std::path::Path;

use cni_spec::conflist::TYPE;

use super::findings::{Found, quoted};
use super::node::Node;
use super::overlay::restart;
use crate::cleanup::refusals;
use crate::cni::Cni;
use crate::ownership::files::plugin_types;
use crate::ownership::known::{is_canal, main_plugin, owner_of_configuration, owner_of_plugin};
use crate::plan::{PACKAGED_SHIM, SHIM_CONFLIST, SHIM_STATE_DIR};
use crate::remedy::Told;
use crate::shim::by_hand;
use crate::step::words::count;

/// The plugin of the dummy configuration that Calico's migration controller leaves when it is interrupted.
const MIGRATION: &str = "flannel-migration-in-progress";

/// The first configuration cannot be used, or is of a CNI whose agent is not here while the other's is.
pub(super) fn stale_conflist(node: &Node) -> Option<Found> {
    let (name, conf) = node.first_configuration()?;
    let path = format!("{}/{name}", node.facts.files.conf_dir);
    let aside = format!("mv {} {}", quoted(&path), quoted(&format!("{path}.broken")));
    let first = format!("{path} sorts first");
    let Some(main) = main_plugin(conf) else {
        let lacks = if conf.is_null() { "is no JSON" } else { "names no plugin" };
        return Some(Found {
            what: format!("{first} and {lacks}"),
            evidence: "runtimes sort configurations by name, and load no network at all where the first cannot be used"
                .into(),
            objects: vec![path],
            command: aside,
        });
    };
    if main == MIGRATION {
        return Some(Found {
            what: format!("{first} and is the placeholder of an interrupted migration"),
            evidence: format!("its plugin is {MIGRATION}, which does not exist"),
            objects: vec![path],
            command: aside,
        });
    }
    // Canal's calico-node looks like Calico's own: what runs does not say that Canal's configuration is stale.
    let cni = owner_of_configuration(conf).filter(|_| !is_canal(conf))?;
    let (side, other) = (node.side(cni), node.side(cni.other()));
    if side.agent || !other.agent {
        return None;
    }
    let lacks = match cni {
        Cni::Flannel if node.facts.files.subnet_env.is_empty() => ", and there is no /run/flannel/subnet.env",
        Cni::Flannel | Cni::Calico => "",
    };
    Some(Found {
        what: format!("{first} and is {cni}'s, but this node is on {}", cni.other()),
        evidence: format!("{} runs, {} does not{lacks}", cni.other().process(), cni.process()),
        objects: vec![path],
        command: format!("nodectl cleanup --{} --force cni-active", cni.name()),
    })
}

/// Plugins of the configuration in force that are in no directory of the runtime's.
pub(super) fn plugin_missing(node: &Node) -> Option<Found> {
    let files = &node.facts.files;
    // Where nobody makes pods, a configuration is a leftover or another program's.
    if !refusals::kubelet_runs(node.facts) && node.facts.runtime.is_none() {
        return None;
    }
    let first = files.conf_names.first()?;
    let types = plugin_types(files.confs.get(first)?);
    let missing = types.into_iter().filter(|t| t != MIGRATION && !files.binaries.contains_key(t)).collect();
    Found::some(missing, |missing| Found {
        what: format!("{} of {first} not in {}: {}", count(missing.len(), "plugin"), files.bin_dir, missing.join(", ")),
        evidence: format!("{first} is the configuration that the runtime uses"),
        command: bring(node, &missing),
        objects: missing,
    })
}

/// How plugins come back: a CNI's own by its agent's installer, the others from where they lie.
fn bring(node: &Node, missing: &[String]) -> String {
    let is_of = |owner: Option<Cni>| missing.iter().any(|name| owner_of_plugin(name) == owner);
    let own = [Cni::Flannel, Cni::Calico].into_iter().filter(|cni| is_of(Some(*cni)));
    let mut commands: Vec<String> = own.map(|cni| restart(node, cni)).collect();
    commands.dedup();
    if is_of(None) {
        commands.push(format!(
            "copy the others into {}: Debian's containernetworking-plugins has them in /usr/lib/cni, and nodectl keeps those that it \
             found in /var/lib/nodectl/backup",
            node.facts.files.bin_dir
        ));
    }
    commands.join("; ")
}

/// New pods get a CNI whose agent does not run.
pub(super) fn missing(node: &Node) -> Option<Found> {
    if node.canal {
        return missing_of_canal(node);
    }
    let side = node.sides().into_iter().find(|s| s.in_use && !s.agent && !node.side(s.cni.other()).agent)?;
    let cni = side.cni;
    Some(Found {
        what: format!("this node is on {cni}, and {} does not run", cni.process()),
        evidence: format!("the configuration, the node's state or its pods name {cni}, and no process is its agent"),
        objects: vec![cni.process().into()],
        command: restart(node, cni),
    })
}

/// Canal's agent is both CNIs'.
fn missing_of_canal(node: &Node) -> Option<Found> {
    let missing = node.sides().into_iter().filter(|s| s.in_use && !s.agent).map(|s| s.cni.process().to_owned());
    Found::some(missing.collect(), |missing| Found {
        what: format!("this node is on Canal, whose pod here lacks {}", missing.join(" and ")),
        evidence: "the configuration or the node's state names Canal, which has both flanneld and calico-node".into(),
        objects: missing,
        command: restart(node, Cni::Flannel),
    })
}

/// A run of nodectl that has not ended.
pub(super) fn open_run(node: &Node) -> Option<Found> {
    let run = node.facts.runs.open.as_ref()?;
    Some(Found {
        what: format!("run {run} has not ended"),
        evidence: "/var/lib/nodectl/open names it".into(),
        objects: vec![run.clone()],
        command: "nodectl resume, or nodectl revert".into(),
    })
}

/// DELs that the shim still owes.
pub(super) fn pending_dels(node: &Node) -> Option<Found> {
    Found::some(node.facts.shim.pending.clone(), |pending| Found {
        what: format!("{} failed and have still to be done", count(pending.len(), "DEL")),
        evidence: "the shim keeps them in /var/lib/cni-shim/pending".into(),
        objects: pending,
        command: "nodectl shim reap".into(),
    })
}

/// The shim is in front without a state that can be read.
pub(super) fn shim_without_state(node: &Node) -> Option<Found> {
    let in_front = node.facts.files.conf_names.iter().any(|name| name == SHIM_CONFLIST);
    if !in_front || node.facts.shim.mode.is_some() {
        return None;
    }
    Some(Found {
        what: "cni-shim is in front, and its state cannot be read".into(),
        evidence: format!("{SHIM_CONFLIST} is there, /var/lib/cni-shim/state.json and its copy are missing or torn"),
        objects: vec!["/var/lib/cni-shim/state.json".into()],
        command: mend_state(node),
    })
}

/// The shim in front is not the one that the package has brought.
pub(super) fn shim_outdated(node: &Node) -> Option<Found> {
    let binary = Path::new(&node.facts.files.bin_dir).join(TYPE).display().to_string();
    node.facts.shim.outdated.then(|| Found {
        what: "cni-shim is in front in another version than the package's".into(),
        evidence: format!("{binary} and {PACKAGED_SHIM} differ in content"),
        objects: vec![binary],
        command: "nodectl shim upgrade".into(),
    })
}

/// A run that is open writes the state by itself; else it is that of the agent that runs here.
fn mend_state(node: &Node) -> String {
    if node.facts.runs.open.is_some() {
        return "nodectl resume".into();
    }
    match node.sides().map(|side| side.agent) {
        // Beside a flanneld, the calico-node is Canal's; alone it may be either's.
        [true, true] if node.facts.is_canal() => write_state(Cni::Flannel),
        [false, true] if node.canal => {
            "nodectl shim status: it says what to write, once Canal's flanneld runs here".into()
        }
        [true, false] => write_state(Cni::Flannel),
        [false, true] => write_state(Cni::Calico),
        _ => "nodectl shim status: it says what to write, once one CNI's agent runs here".into(),
    }
}

fn write_state(cni: Cni) -> String {
    format!("install -d -m 700 {SHIM_STATE_DIR}; echo '{}' > {SHIM_STATE_DIR}/state.json", by_hand(cni))
}

/// Parts that could not be looked at. A runtime and an API server that do not answer are told elsewhere.
pub(super) fn unobserved(node: &Node) -> Option<Found> {
    let mut unseen = node.facts.unseen();
    let journal = "the open run's journal";
    unseen.extend(node.facts.unobserved.get(journal).map(|why| format!("{journal}: {why}")));
    // With a kubelet here, a runtime that does not answer hides what only it knows.
    if refusals::kubelet_runs(node.facts) {
        unseen.extend(node.facts.unobserved.get("runtime").map(|why| format!("runtime: {why}")));
    }
    let root = node.facts.machine.uid == 0;
    let remedies = unseen.iter().flat_map(|why| Told::of(why).remedies).collect::<Vec<_>>().join("; ");
    let mend = if remedies.is_empty() { "mend what is named".to_owned() } else { remedies };
    Found::some(unseen, |unseen| Found {
        what: format!("{} of this node could not be looked at", count(unseen.len(), "part")),
        evidence: "the kernel or a tool refused".into(),
        objects: unseen,
        command: if root { mend } else { "sudo nodectl doctor".into() },
    })
}
