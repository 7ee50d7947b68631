//! Why a CNI may not be taken off a node now. Each reason has a name, for `--force NAME`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Request;
use crate::cni::Cni;
use crate::facts::{Facts, Process};
use crate::ownership::known::{main_plugin, owner_of_configuration, plugin};
use crate::ownership::{Inventory, Known, attachments};
use crate::plan::SHIM_CONFLIST;
use crate::step::words::{count, some};

/// Name of the refusal to decide on what could not be seen.
pub const UNOBSERVED: &str = "unobserved";

/// Names of the refusals that `--force` waives.
pub const NAMES: [&str; 7] =
    ["agent-runs", "pods-depend", "connections-depend", "dels-owed", "cni-active", UNOBSERVED, "kube-proxy-missing"];

/// A reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Its name.
    pub name: String,
    /// What was found and what would come of it, in a sentence.
    pub why: String,
    /// How to mend it.
    pub fix: String,
    /// `--force` names it.
    pub waived: bool,
}

/// Every reason that holds on this node. Pure.
pub fn refusals(facts: &Facts, request: &Request, known: &Known, inventory: &Inventory) -> Vec<Refusal> {
    let found = [
        root(facts),
        open_run(facts),
        agent(facts, request.cni),
        pods(facts, request.cni),
        connections(facts, inventory),
        owed(facts, request.cni),
        active(facts, request.cni),
        unobserved(facts),
        kube_proxy(facts, request.cni, known, inventory),
    ];
    let waive = |mut refusal: Refusal| {
        refusal.waived = NAMES.contains(&refusal.name.as_str()) && request.force.contains(&refusal.name);
        refusal
    };
    found.into_iter().flatten().map(waive).collect()
}

fn refusal(name: &str, why: String, fix: impl Into<String>) -> Option<Refusal> {
    Some(Refusal { name: name.into(), why, fix: fix.into(), waived: false })
}

fn root(facts: &Facts) -> Option<Refusal> {
    if facts.machine.uid == 0 {
        return None;
    }
    refusal(
        "root",
        format!("this runs as user {}, and only root can remove these objects", facts.machine.uid),
        "run it with sudo",
    )
}

fn open_run(facts: &Facts) -> Option<Refusal> {
    let run = facts.runs.open.as_ref()?;
    let why = format!("run {run} is open: what it would undo, or goes on with, must not be taken away under it");
    refusal("open-run", why, "finish it with `nodectl resume`, or take it back with `nodectl revert`")
}

/// An agent puts back what is removed under it.
fn agent(facts: &Facts, cni: Cni) -> Option<Refusal> {
    let running: Vec<String> = agents(facts, cni).map(|p| format!("{} (pid {})", p.name, p.pid)).collect();
    if running.is_empty() {
        return None;
    }
    let fix = match cni {
        Cni::Flannel => {
            "take flannel's DaemonSet off this node first (its node selector, or the label nodectl.io/cni), or stop the service that \
             runs it"
        }
        Cni::Calico => {
            "take calico-node off this node first (its node selector, or the label nodectl.io/cni), or stop the service that runs it"
        }
    };
    refusal("agent-runs", format!("{} runs and would make again what is removed", running.join(", ")), fix)
}

/// Processes that are the CNI's agent. k3s has flannel inside; BIRD may be an administrator's own.
pub fn agents(facts: &Facts, cni: Cni) -> impl Iterator<Item = &Process> {
    facts.processes.iter().filter(move |p| is_agent(p, facts, cni))
}

fn is_agent(process: &Process, facts: &Facts, cni: Cni) -> bool {
    let has = |part: &str| process.args.iter().any(|arg| arg.contains(part));
    match (cni, process.name.as_str()) {
        (Cni::Flannel, "flanneld") | (Cni::Calico, "calico-node" | "calico-felix") => true,
        (Cni::Calico, "bird" | "bird6" | "confd") => has("/calico/"),
        (Cni::Flannel, "k3s" | "k3s-agent" | "k3s-server") => {
            !has("--flannel-backend=none") && facts.files.conf_dir.contains("/k3s/") && names_plugin(facts, cni)
        }
        _ => false,
    }
}

/// Somebody here makes pods.
pub fn kubelet_runs(facts: &Facts) -> bool {
    ["kubelet", "k3s", "k3s-agent", "k3s-server", "rke2", "kubelite"].iter().any(|name| facts.runs(name))
}

/// Pods lose their network with their devices.
fn pods(facts: &Facts, cni: Cni) -> Option<Refusal> {
    let attached = attachments::attached(facts, cni);
    if attached.is_empty() {
        return None;
    }
    let named: Vec<String> = attached
        .iter()
        .map(|a| a.pod.as_ref().map_or_else(|| a.link.clone(), |pod| format!("{pod} ({})", a.link)))
        .collect();
    let told = if facts.runtime.is_some() {
        ""
    } else {
        "; the runtime does not answer, so a device whose other end is there counts as a pod's"
    };
    refusal(
        "pods-depend",
        format!("{} of {cni} would lose their network: {}{told}", count(attached.len(), "pod"), some(&named)),
        format!(
            "move them to the other CNI (`nodectl migrate`), or drain the node first; `--force pods-depend` cuts them off from {cni}"
        ),
    )
}

/// Pods that were re-plumbed keep the connections that the host began to them, and those have the address of flannel's bridge:
/// the kernel ends them with it.
fn connections(facts: &Facts, inventory: &Inventory) -> Option<Refusal> {
    let connections = &facts.traces.as_ref()?.connections;
    let open = |ip: IpAddr| Some((ip, *connections.get(&ip)?));
    let goes: BTreeMap<IpAddr, usize> =
        inventory.image.addresses.iter().filter_map(|address| open(address.address.addr())).collect();
    if goes.is_empty() {
        return None;
    }
    let named: Vec<String> = goes.iter().map(|(ip, n)| format!("{n} of {ip}")).collect();
    refusal(
        "connections-depend",
        format!("{} of this host would end: {}", count(goes.values().sum(), "TCP connection"), some(&named)),
        "wait until they have ended (`ss -t` shows them), or end what has them; `--force connections-depend` cuts them",
    )
}

/// A DEL that is owed needs the CNI's plugins: without them it can never be done. One whose record cannot be read may be anybody's.
fn owed(facts: &Facts, cni: Cni) -> Option<Refusal> {
    let others = facts.shim.attachments.get(&cni.other());
    let owed: Vec<String> =
        facts.shim.pending.iter().filter(|del| !others.is_some_and(|ids| ids.contains(del))).cloned().collect();
    if owed.is_empty() {
        return None;
    }
    refusal(
        "dels-owed",
        format!(
            "{} still owed, and could never be done without {cni}'s plugins: {}",
            count(owed.len(), "DEL"),
            some(&owed)
        ),
        "do them first: `nodectl shim reap`",
    )
}

/// New pods would get the CNI that is being taken away.
fn active(facts: &Facts, cni: Cni) -> Option<Refusal> {
    let gives = |given: Cni| given == cni || given == Cni::Flannel && facts.is_on_canal();
    let network = if facts.is_on_canal() { format!("Canal, which needs {cni}'s part") } else { cni.to_string() };
    let by_shim = [Cni::Flannel, Cni::Calico].into_iter().find(|c| facts.shim.mode.as_deref() == Some(c.name()));
    let fix = format!(
        "switch the node first (`nodectl migrate`), or install the other CNI; `--force cni-active` leaves new pods without {cni}"
    );
    if by_shim.is_some_and(gives) {
        return refusal("cni-active", format!("this node's state says that new pods get {network}"), fix);
    }
    let (first, conf) = first_configuration(facts)?;
    // Where no kubelet runs, nobody makes pods.
    if !kubelet_runs(facts) || !owner_of_configuration(conf).is_some_and(gives) {
        return None;
    }
    let why = format!("new pods get {network}: {first} is the first network configuration in {}", facts.files.conf_dir);
    refusal("cni-active", why, fix)
}

/// The configuration that a runtime takes, where it is a CNI's own, and what it says.
pub fn first_configuration(facts: &Facts) -> Option<(&str, &serde_json::Value)> {
    let name = facts.files.conf_names.first().filter(|name| name.as_str() != SHIM_CONFLIST)?;
    Some((name, facts.files.confs.get(name)?))
}

fn names_plugin(facts: &Facts, cni: Cni) -> bool {
    facts.files.confs.values().any(|conf| main_plugin(conf) == Some(plugin(cni)))
}

/// What could not be looked at could not be told apart either.
fn unobserved(facts: &Facts) -> Option<Refusal> {
    let unseen = facts.unseen();
    if unseen.is_empty() {
        return None;
    }
    refusal(
        UNOBSERVED,
        format!("parts of this node could not be looked at: {}", unseen.join("; ")),
        "mend that; `--force unobserved` removes what can be seen",
    )
}

/// felix's eBPF mode takes kube-proxy's rules away: without its programs and without kube-proxy no service answers.
fn kube_proxy(facts: &Facts, cni: Cni, known: &Known, inventory: &Inventory) -> Option<Refusal> {
    let serves = facts.runs("kube-proxy")
        || facts.runs("k3s-agent")
        || facts.firewall.saved.iter().any(|s| s.text.contains(":KUBE-SVC-"))
        || facts.network.link("kube-ipvs0").is_some()
        || facts.firewall.nft_tables.iter().any(|t| t.ends_with(" kube-proxy"));
    if cni != Cni::Calico || !known.ebpf || serves || inventory.image.pins.is_empty() || !facts.runs("kubelet") {
        return None;
    }
    refusal(
        "kube-proxy-missing",
        "Calico's eBPF programs are this node's only way to services, and kube-proxy is not there".into(),
        "bring kube-proxy back first (Calico's documentation: disabling eBPF)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Backend, Family, Firewall, Link, Note, Runtime, Sandbox, Saved, Traces};
    use crate::ownership;
    use serde_json::json;

    #[test]
    fn calicos_programs_stay_where_nothing_else_leads_to_services() {
        let process = |name: &str| Process { name: name.into(), ..Process::default() };
        let mut facts = Facts { processes: vec![process("kubelet")], ..Facts::default() };
        let globals = (format!("{}/tc/globals", ownership::kernel::BPFFS), vec!["cali_v4_nat_fe3".to_owned()]);
        facts.traces = Some(Box::new(Traces { listings: [globals].into(), ..Traces::default() }));
        let refused = |facts: &Facts| {
            let known = Known::of(facts, Cni::Calico);
            let inventory = ownership::inventory(facts, Cni::Calico, &known);
            assert!(!inventory.image.pins.is_empty());
            kube_proxy(facts, Cni::Calico, &known, &inventory).map(|refusal| refusal.name)
        };
        assert_eq!(refused(&facts).as_deref(), Some("kube-proxy-missing"));
        let text = "*nat\n:KUBE-SVC-X - [0:0]\nCOMMIT\n".to_owned();
        let rules = Saved { backend: Backend::Nft, family: Family::Ipv4, text, opaque: Vec::new() };
        let by_rules = Facts { firewall: Firewall { saved: vec![rules], ..Firewall::default() }, ..facts.clone() };
        let by_process = Facts { processes: vec![process("kubelet"), process("kube-proxy")], ..facts.clone() };
        // Where no kubelet runs, nobody asks for services.
        let nobody = Facts { processes: Vec::new(), ..facts };
        for served in [by_rules, by_process, nobody] {
            assert_eq!(refused(&served), None);
        }
    }

    /// A node on Canal without its agents, with a pod's device.
    fn on_canal() -> Facts {
        let mut facts = Facts::default();
        let conf = json!({"name": "k8s-pod-network", "plugins": [{"type": "calico", "ipam": {"type": "host-local"}}]});
        facts.files.conf_names = vec!["10-canal.conflist".into()];
        facts.files.confs.insert("10-canal.conflist".into(), conf);
        facts.processes = vec![Process { name: "kubelet".into(), ..Process::default() }];
        let name = cni_store::evidence::calico_interface("cali", "default", "web");
        facts.network.links = vec![Link { name, kind: "veth".into(), peer_index: Some(3), ..Link::default() }];
        facts
    }

    #[test]
    fn neither_side_of_a_live_canal_is_taken_away() {
        let mut facts = on_canal();
        for cni in [Cni::Flannel, Cni::Calico] {
            assert!(active(&facts, cni).is_some(), "new pods need {cni}");
            facts.shim.mode = Some("flannel".into());
            facts.files.conf_names.insert(0, SHIM_CONFLIST.into());
            assert!(active(&facts, cni).is_some(), "by the state, new pods need {cni}");
            facts = on_canal();
        }
        facts.shim.mode = Some("calico".into());
        facts.files.conf_names.insert(0, SHIM_CONFLIST.into());
        assert!(active(&facts, Cni::Flannel).is_none() && active(&facts, Cni::Calico).is_some());
    }

    #[test]
    fn pods_of_canal_depend_on_both_sides() {
        let depend = |facts: &Facts| [Cni::Flannel, Cni::Calico].map(|cni| pods(facts, cni).is_some());
        let mut facts = on_canal();
        assert_eq!(depend(&facts), [true, true], "nobody says whose it is");
        let sandbox = Sandbox {
            id: "c1".into(),
            namespace: "default".into(),
            name: "web".into(),
            ready: true,
            ..Sandbox::default()
        };
        facts.runtime = Some(Runtime { sandboxes: vec![sandbox], ..Runtime::default() });
        let cached = Note { container: "c1".into(), plugins: vec!["calico".into()], ..Note::default() };
        let lease = Note {
            path: "/var/lib/cni/networks/k8s-pod-network/10.244.1.2".into(),
            container: "c1".into(),
            ..Note::default()
        };
        facts.traces = Some(Box::new(Traces { notes: vec![cached.clone()], ..Traces::default() }));
        assert_eq!(depend(&facts), [false, true], "Calico's own address");
        facts.traces = Some(Box::new(Traces { notes: vec![cached, lease], ..Traces::default() }));
        assert_eq!(depend(&facts), [true, true], "host-local's address");
        facts.runtime = Some(Runtime::default());
        assert_eq!(depend(&facts), [false, false], "its pod is gone");
    }

    #[test]
    fn dels_that_are_owed_keep_the_plugins_that_they_need() {
        let mut facts = Facts::default();
        assert_eq!(owed(&facts, Cni::Flannel), None);
        facts.shim.attachments.insert(Cni::Calico, vec!["c1-eth0".into()]);
        facts.shim.pending = vec!["c1-eth0".into()];
        assert_eq!(owed(&facts, Cni::Flannel), None, "it is Calico's");
        assert!(owed(&facts, Cni::Calico).is_some());
        facts.shim.pending.push("unreadable DEL /var/lib/cni-shim/pending/x.json".into());
        let told = owed(&facts, Cni::Flannel).expect("it may be flannel's");
        assert!(told.why.starts_with("1 DEL still owed") && told.why.contains("unreadable"), "{told:?}");
    }
}
