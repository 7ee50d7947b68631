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
pub const CHECKS: [Check; 21] = [
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
