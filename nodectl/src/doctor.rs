//! `nodectl doctor`: what is wrong with this node's network, what it causes, how it was recognised, what mends it. Pure.
//!
//! [`CHECKS`] is the list; each check is a function from the node as it was seen to a finding. What a check needs from outside
//! (which peers answer) is observed before and is part of the facts.

mod agents;
mod findings;
mod leaks;
mod leftovers;
mod node;
mod overlay;
mod routes;

use serde::{Deserialize, Serialize};

pub use findings::{Finding, Severity, State};
pub use node::{Begun, Node};
pub use overlay::peers;

use findings::Found;
use findings::Severity::{Critical, Notice, Warning};

use crate::facts::Facts;

/// A check: its name, how bad what it finds is, what that causes, and the function that looks.
#[derive(Debug)]
pub struct Check {
    /// Its name; stable, for scripts.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What it causes.
    pub causes: &'static str,
    look: fn(&Node) -> Option<Found>,
}

const fn check(id: &'static str, severity: Severity, look: fn(&Node) -> Option<Found>, causes: &'static str) -> Check {
    Check { id, severity, causes, look }
}

/// Every check, the worst first.
pub const CHECKS: [Check; 22] = [
    check(
        "stale-conflist",
        Critical,
        agents::stale_conflist,
        "new pods do not start: the runtime takes the first configuration, whose CNI does not serve this node",
    ),
    check(
        "plugin-missing",
        Critical,
        agents::plugin_missing,
        "new pods do not start, and pods cannot be torn down: the runtime does not find the plugin",
    ),
    check(
        "masquerade-left",
        Critical,
        leftovers::masquerade,
        "traffic between nodes leaves with the node's address instead of the pod's, so that network policies drop it",
    ),
    check(
        "blackhole-shadows-pods",
        Critical,
        routes::shadows,
        "the host drops what it has for pods on cni0 (EINVAL): probes fail, and services with a backend here",
    ),
    check(
        "dead-vtep",
        Critical,
        overlay::dead_vtep,
        "pods of this node and of the nodes named do not reach each other, though the nodes themselves do",
    ),
    check(
        "policy-left",
        Warning,
        leftovers::policy,
        "rules that nobody keeps up to date any more go on dropping: packets of interfaces that felix did not know, of peers that \
         are new",
    ),
    check(
        "agent-missing",
        Warning,
        agents::missing,
        "nobody keeps the node's routes and rules up to date: peers that come or move are not reached",
    ),
    check(
        "tunl0-address",
        Warning,
        routes::tunl0,
        "programs that choose an address of the node may choose this one, and answers to it go nowhere",
    ),
    check(
        "dead-peers",
        Warning,
        overlay::dead_peers,
        "traffic into these parts of the pod network is lost instead of refused",
    ),
    check(
        "leaked-leases",
        Warning,
        leaks::leases,
        "their addresses are never given out again; with enough of them new pods do not start",
    ),
    check(
        "leaked-veths",
        Warning,
        leaks::veths,
        "their addresses stay routed to nobody; felix drops what comes from them",
    ),
    check(
        "dead-hostports",
        Warning,
        leaks::host_ports,
        "connections to these ports of the node go to a pod that is gone, also where a new pod has the port",
    ),
    check(
        "flannel-left",
        Warning,
        leftovers::flannel,
        "leftovers mislead agents, address autodetection and people, and come back to life with the agent",
    ),
    check(
        "calico-left",
        Warning,
        leftovers::calico,
        "leftovers mislead agents, address autodetection and people, and come back to life with the agent",
    ),
    check("open-run", Warning, agents::open_run, "the node may be between two CNIs, and new pods may wait"),
    check(
        "cleanup-unfinished",
        Warning,
        leftovers::unfinished,
        "a part of what the cleanup was to take away is still there",
    ),
    check("pending-dels", Warning, agents::pending_dels, "addresses and host ports of pods that are gone stay taken"),
    check(
        "shim-state-missing",
        Warning,
        agents::shim_without_state,
        "new pods get the CNI that the configuration itself names, whatever the node was switched to",
    ),
    check(
        "shim-outdated",
        Warning,
        agents::shim_outdated,
        "pods are attached and detached without what the package's version mends",
    ),
    check("unobserved", Warning, agents::unobserved, "what is wrong there is not known"),
    check("empty-blocks", Notice, routes::empty_blocks, "addresses of the pool that no other node can use"),
    check(
        "names-gone-device",
        Notice,
        leftovers::mentions,
        "rules and settings that match nothing, and match again when a device of this name comes back",
    ),
];

/// What a peer answers, seen from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The next hop of the routes to it: its tunnel address, or the node's own.
    pub gateway: std::net::IpAddr,
    /// The node's own address, where a forwarding entry tells.
    pub node: Option<std::net::IpAddr>,
}

/// What is wrong with the node, the worst first. Pure.
pub fn examine(facts: &Facts, begun: &Begun) -> Vec<Finding> {
    let node = Node::new(facts, begun);
    CHECKS.iter().filter_map(|check| Some((check.look)(&node)?.of(check))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::Cni;
    use crate::facts::{Backend, Family, Process, Saved};

    /// A node on Canal, with felix's rules and these processes beside kubelet.
    fn on_canal(processes: &[&str]) -> Facts {
        let mut facts = Facts::default();
        let conf = serde_json::json!({"name": "k8s-pod-network", "plugins": [{"type": "calico", "ipam": {"type": "host-local"}}]});
        facts.files.conf_names = vec!["10-canal.conflist".into()];
        facts.files.confs.insert("10-canal.conflist".into(), conf);
        facts.files.binaries = ["calico", "host-local"].map(|name| (name.to_owned(), 1)).into();
        let text =
            "*filter\n:FORWARD ACCEPT [0:0]\n:cali-FORWARD - [0:0]\n-A FORWARD -j cali-FORWARD\nCOMMIT\n".to_owned();
        facts.firewall.saved = vec![Saved { backend: Backend::Nft, family: Family::Ipv4, text, opaque: Vec::new() }];
        let all = processes.iter().chain(&["kubelet"]);
        facts.processes = all.map(|name| Process { name: (*name).into(), ..Process::default() }).collect();
        facts
    }

    #[test]
    fn a_canal_node_whose_agent_is_away_is_told_to_bring_it_back_and_nothing_else() {
        assert_eq!(examine(&on_canal(&["flanneld", "calico-node"]), &Begun::new()), []);
        let by_state = |mut facts: Facts| {
            facts.files.conf_names.insert(0, crate::plan::SHIM_CONFLIST.into());
            facts.files.binaries.insert("cni-shim".into(), 1);
            facts.shim.mode = Some(Cni::Flannel.name().into());
            facts
        };
        for (runs, lacks) in
            [(vec!["flanneld"], "calico-node"), (vec!["calico-node"], "flanneld"), (vec![], "flanneld, calico-node")]
        {
            for facts in [on_canal(&runs), by_state(on_canal(&runs))] {
                let findings = examine(&facts, &Begun::new());
                let [only] = findings.as_slice() else { panic!("{runs:?}: {findings:#?}") };
                assert_eq!((only.id.as_str(), only.objects.join(", ").as_str()), ("agent-missing", lacks));
                assert!(only.command.contains("-l k8s-app=canal "), "{only:?}");
            }
        }
    }

    #[test]
    fn what_canal_left_on_a_node_that_is_on_calico_is_told() {
        let mut facts = on_canal(&["calico-node"]);
        facts.files.conf_names.insert(0, "10-calico.conflist".into());
        let conf = serde_json::json!({"plugins": [{"type": "calico", "ipam": {"type": "calico-ipam"}}]});
        facts.files.confs.insert("10-calico.conflist".into(), conf);
        facts.files.binaries.insert("calico-ipam".into(), 1);
        facts.firewall.saved[0].text +=
            "*nat\n:POSTROUTING ACCEPT [0:0]\n:FLANNEL-POSTRTG - [0:0]\n-A POSTROUTING -j FLANNEL-POSTRTG\nCOMMIT\n";
        let ids: Vec<String> = examine(&facts, &Begun::new()).into_iter().map(|f| f.id).collect();
        assert_eq!(ids, ["masquerade-left", "flannel-left"]);
    }

    #[test]
    fn a_shim_that_the_package_did_not_bring_is_told() {
        let mut facts = on_canal(&["flanneld", "calico-node"]);
        facts.files.conf_names.insert(0, crate::plan::SHIM_CONFLIST.into());
        facts.files.bin_dir = "/opt/cni/bin".into();
        facts.shim.mode = Some(Cni::Flannel.name().into());
        assert_eq!(examine(&facts, &Begun::new()), []);
        facts.shim.outdated = true;
        let findings = examine(&facts, &Begun::new());
        let [only] = findings.as_slice() else { panic!("{findings:#?}") };
        assert_eq!((only.id.as_str(), only.command.as_str()), ("shim-outdated", "nodectl shim upgrade"));
        assert_eq!(only.objects, ["/opt/cni/bin/cni-shim"]);
    }

    #[test]
    fn the_lost_state_of_a_shim_on_canal_is_written_as_flannels() {
        let command = |processes: &[&str]| {
            let mut facts = on_canal(processes);
            facts.files.conf_names.insert(0, crate::plan::SHIM_CONFLIST.into());
            facts.files.binaries.insert("cni-shim".into(), 1);
            let found = examine(&facts, &Begun::new()).into_iter().find(|f| f.id == "shim-state-missing");
            found.expect("it is missing").command
        };
        assert!(command(&["flanneld", "calico-node"]).contains(r#""mode": "flannel""#));
        assert!(command(&["flanneld"]).contains(r#""mode": "flannel""#));
        assert!(command(&["calico-node"]).starts_with("nodectl shim status"));
    }

    #[test]
    fn checks_have_names_of_their_own_and_the_worst_come_first() {
        let names: std::collections::BTreeSet<&str> = CHECKS.iter().map(|c| c.id).collect();
        assert_eq!(names.len(), CHECKS.len());
        assert!(CHECKS.windows(2).all(|pair| pair[0].severity >= pair[1].severity));
    }

    #[test]
    fn a_node_of_which_nothing_is_known_has_no_findings() {
        let mut facts = Facts::default();
        assert_eq!(examine(&facts, &Begun::new()), []);
        facts.unobserved.insert("firewall".into(), "not allowed".into());
        let findings = examine(&facts, &Begun::new());
        let [only] = findings.as_slice() else { panic!("{findings:?}") };
        assert_eq!(
            (only.id.as_str(), only.objects.as_slice()),
            ("unobserved", ["firewall: not allowed".to_owned()].as_slice())
        );
    }
}
