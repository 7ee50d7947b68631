//! What a decision is made of, and the survey that every decision starts with.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv6Net};
use serde::Serialize;
use serde_json::Value;

use super::calico::{self, Calico};
use super::change::Change;
use super::check::{Check, listed};
use super::daemon_set as ds;
use super::facts::{AgentPod, ClusterFacts};
use super::flannel::{self, Flannel};
use super::fleet::FleetNode;
use super::ipam;
use super::node::{NodeView, OverlayEnd};
use super::object::{is_going, name, namespace};
use super::request::Request;
use crate::cni::{Cni, RUN_ANNOTATION};

/// Smallest prefix length that is a sensible block of addresses: Calico's own default.
const CALICO_BLOCK_SIZE: u8 = 26;

/// The same of IPv6.
const CALICO_IPV6_BLOCK_SIZE: u8 = 122;

/// How many IPv6 addresses a node claims for its own pods, for each address of its IPv4 pod CIDR.
///
/// A /64 cannot be claimed whole: it has 2^58 blocks. Nor has it to be: a pod takes one address of each family, so a node runs
/// out of IPv4 first and never asks for one more IPv6 block, which Calico would take from anywhere in the pool, another node's
/// pod CIDR included. Twice as many, because pods can be told to take IPv6 alone.
const IPV6_PER_IPV4: usize = 2;

/// How many IPv6 addresses are claimed beyond the highest one that flannel has given a pod of the node.
///
/// Calico's nodes have routes to claimed blocks alone, and host-local never turns back in a /64: each new pod's address is one more
/// than the one before. So what pods have now is claimed, and what the next ones will get. As long as half of that is there, no
/// more is claimed: prepare that is run again changes nothing for a few new pods.
const IPV6_AHEAD: u32 = 512;

/// What is to be done, and what was looked at to come to that.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Decision {
    /// Every check that was made.
    pub checks: Vec<Check>,
    /// Writes, in order. None where a check refuses.
    pub changes: Vec<Change>,
    /// What has to happen by itself before the command is done, as sentences.
    pub pending: Vec<String>,
    /// What the operator should know, as sentences.
    pub notes: Vec<String>,
    /// What it comes to for every node, where that was looked at.
    pub fleet: Vec<FleetNode>,
}

impl Decision {
    /// A check refuses.
    pub fn is_refused(&self) -> bool {
        self.checks.iter().any(Check::is_refused)
    }

    /// The writes that nothing has to be waited for.
    pub fn ready(&self) -> &[Change] {
        let end = self.changes.iter().position(|c| c.waits_for.is_some()).unwrap_or(self.changes.len());
        &self.changes[..end]
    }

    /// What is waited for now.
    pub fn waits(&self) -> Vec<String> {
        let held = self.changes.get(self.ready().len()).and_then(|c| c.waits_for.clone());
        self.pending.iter().cloned().chain(held).collect()
    }
}

/// The cluster as a decision sees it.
#[derive(Debug, Clone)]
pub struct Survey<'a> {
    /// What was read.
    pub facts: &'a ClusterFacts,
    /// What was asked.
    pub request: &'a Request,
    /// flannel, where it was found.
    pub flannel: Option<Flannel>,
    /// Calico, where it was found.
    pub calico: Option<Calico>,
    /// The nodes.
    pub nodes: Vec<NodeView<'a>>,
    /// Prefix length of the IPv4 pool's blocks: Calico's default, or a node's whole pod CIDR where that is smaller.
    pub block_size: u8,
    /// The same of the IPv6 pool.
    pub block_size6: u8,
    /// Calico's blocks.
    pub blocks: Index<'a>,
    /// Which node a block belongs to.
    pub affinities: Index<'a>,
    /// Who holds addresses.
    pub handles: Index<'a>,
    /// The checks made so far.
    pub checks: Vec<Check>,
}

impl<'a> Survey<'a> {
    /// Finds both agents and looks at the nodes.
    pub fn new(facts: &'a ClusterFacts, request: &'a Request) -> Survey<'a> {
        let mut checks = Vec::new();
        let flannel = flannel::detect(facts, request, &mut checks);
        let calico = calico::detect(facts, request, flannel.as_ref(), &mut checks);
        let default_prefix = flannel::annotation_prefix(flannel::DEFAULT_ANNOTATION_PREFIX);
        let prefix = flannel.as_ref().map_or(default_prefix.as_str(), |f| f.annotation_prefix.as_str());
        let nodes: Vec<NodeView> = facts.nodes.iter().map(|n| NodeView::new(n, prefix)).collect();
        let longest = nodes.iter().filter_map(|n| n.pod_cidr).map(|c| c.prefix_len()).max();
        let longest6 = nodes.iter().filter_map(|n| n.pod_cidr6).map(|c| c.prefix_len()).max();
        let size = |told: Option<u8>, longest: Option<u8>, least: u8| told.or(longest).unwrap_or(least).max(least);
        Survey {
            facts,
            request,
            flannel,
            calico,
            nodes,
            block_size: size(request.flannel_subnet_len, longest, CALICO_BLOCK_SIZE),
            block_size6: size(request.flannel_ipv6_subnet_len, longest6, CALICO_IPV6_BLOCK_SIZE),
            blocks: Index::new(&facts.ipam_blocks),
            affinities: Index::new(&facts.block_affinities),
            handles: Index::new(&facts.ipam_handles),
            checks,
        }
    }

    /// The pod CIDRs that a node has of flannel's networks, IPv4 first.
    pub fn pod_cidrs(&self, node: &NodeView) -> Vec<IpNet> {
        let v6 = node.pod_cidr6.filter(|_| self.carries_ipv6());
        node.pod_cidr.map(IpNet::V4).into_iter().chain(v6.map(IpNet::V6)).collect()
    }

    /// A node's ends of flannel's overlays, IPv4 first. `None` where one is lacking: the node then cannot be told of yet.
    pub fn ends(&self, node: &NodeView) -> Option<Vec<OverlayEnd>> {
        let mut ends = vec![node.end()?];
        if self.carries_ipv6() {
            ends.push(node.end6()?);
        }
        Some(ends)
    }

    /// flannel has an IPv6 network beside its IPv4 one.
    pub fn carries_ipv6(&self) -> bool {
        self.flannel.as_ref().is_some_and(|f| f.network6.is_some())
    }

    /// Prefix length of the blocks in the pool for this network.
    pub fn block_size_of(&self, network: IpNet) -> u8 {
        if network.addr().is_ipv4() { self.block_size } else { self.block_size6 }
    }

    /// The blocks of its pod CIDRs that a node claims, in their order: all of IPv4; of IPv6 the first ones for pods that Calico makes
    /// ([`IPV6_PER_IPV4`]), and those that flannel's pods have addresses of, or will have soon ([`IPV6_AHEAD`]).
    pub fn blocks_of(&self, node: &NodeView) -> Vec<IpNet> {
        let claimed = |cidr: IpNet| match cidr {
            IpNet::V4(_) => ipam::blocks(cidr, self.block_size, usize::MAX),
            IpNet::V6(cidr) => self.ipv6_blocks(node, cidr),
        };
        self.pod_cidrs(node).into_iter().flat_map(claimed).collect()
    }

    fn ipv6_blocks(&self, node: &NodeView, cidr: Ipv6Net) -> Vec<IpNet> {
        let of_ipv4 = node.pod_cidr.map_or(0, |cidr| 1usize << (32 - cidr.prefix_len()));
        let each = 1usize << (128 - self.block_size6).min(16);
        let first = ipam::blocks(IpNet::V6(cidr), self.block_size6, (of_ipv4 * IPV6_PER_IPV4).div_ceil(each));
        let used = self.facts.pod_addresses6.range(cidr.network()..=cidr.broadcast());
        let highest = used.clone().next_back().copied();
        let block = |address: Ipv6Addr| Some(IpNet::V6(Ipv6Net::new(address, self.block_size6).ok()?.trunc()));
        let until = |far: u32| {
            let steps = (0..=far).step_by(each).map(u128::from);
            let next = highest.into_iter().flat_map(move |highest| {
                steps.clone().map(move |step| Ipv6Addr::from(u128::from(highest).saturating_add(step)))
            });
            next.filter(|address| cidr.contains(address)).filter_map(block)
        };
        let has =
            |block: IpNet| self.blocks.live(&ipam::block_ref(block).name).and_then(ipam::block_node) == Some(node.name);
        let ahead = until(if until(IPV6_AHEAD / 2).all(has) { 0 } else { IPV6_AHEAD });
        let all: BTreeSet<IpNet> = first.into_iter().chain(used.copied().filter_map(block)).chain(ahead).collect();
        all.into_iter().collect()
    }

    /// The DaemonSets that run flannel, Canal's among them.
    pub fn flannel_daemon_sets(&self) -> impl Iterator<Item = &'a Value> {
        let sets = self.facts.daemon_sets.iter();
        sets.filter(|d| ds::flannel_container(d).is_some() && !is_going(d))
    }

    /// Whether a pod is flannel's.
    pub fn is_flannel(&self, pod: &AgentPod) -> bool {
        self.flannel_daemon_sets().any(|d| namespace(d) == pod.namespace && name(d) == pod.daemon_set)
    }

    /// Whether a pod is Calico's.
    pub fn is_calico(&self, pod: &AgentPod) -> bool {
        self.calico.as_ref().is_some_and(|c| c.namespace == pod.namespace && c.daemon_set == pod.daemon_set)
    }

    /// Nodes with such a pod of an agent, once for each.
    pub fn nodes_with(&self, is_meant: impl Fn(&AgentPod) -> bool) -> Vec<String> {
        self.facts.pods.iter().filter(|p| is_meant(p)).map(|p| p.node.clone()).collect()
    }

    /// Nodes whose label asks for something else than this CNI, and for what.
    pub fn nodes_not_for(&self, cni: Cni) -> Vec<String> {
        let wanted = self.nodes.iter().filter_map(|n| Some((n.name, n.wanted?)));
        wanted.filter(|(_, wanted)| *wanted != cni.name()).map(|(name, wanted)| format!("{name} ({wanted})")).collect()
    }

    /// Nodes of which there is something to say, and what.
    pub fn nodes_for(&self, what: impl Fn(&NodeView) -> Option<String>) -> Vec<String> {
        self.nodes.iter().filter_map(|n| Some(format!("{} ({})", n.name, what(n)?))).collect()
    }

    /// Passed where no node says that a switch is open there: such a node still has to go forward or back, and needs for that
    /// what the commands take away that end a roll. What cannot be read may say so.
    pub fn runs_check(&self, name: &'static str, command: &str) -> Check {
        let (open, unread) = (self.nodes_for(|n| n.open_switch()), self.nodes_for(|n| n.run_problem()));
        let (mut findings, mut fixes) = (Vec::new(), Vec::new());
        if !open.is_empty() {
            findings.push(format!("a switch is open on {}", listed(&open)));
            fixes.push(format!(
                "see nodectl status there, and end it with nodectl resume, confirm or revert, then run {command} again. Where none is \
                 open any more, its last word was lost: kubectl annotate node NAME {RUN_ANNOTATION}-"
            ));
        }
        if !unread.is_empty() {
            findings.push(format!(
                "a switch may be open, for the annotation {RUN_ANNOTATION} cannot be read, on {}",
                listed(&unread)
            ));
            fixes.push(format!(
                "run {command} with a nodectl at least as new as that node's, or see nodectl status there: where no switch is open, \
                 kubectl annotate node NAME {RUN_ANNOTATION}-, then run {command} again"
            ));
        }
        match findings.is_empty() {
            true => Check::passed(name, "no node says that a switch is open there"),
            false => Check::refused(name, findings.join("; "), fixes.join("; ")),
        }
    }

    /// What has to be waited for while an agent has old pods, in words.
    pub fn replacement_of(&self, agent: &str, is_old: impl Fn(&AgentPod) -> bool) -> Option<String> {
        let nodes = self.nodes_with(is_old);
        (!nodes.is_empty()).then(|| {
            format!(
                "{agent}'s pod on {} to be replaced (a DaemonSet with the update strategy OnDelete waits for you to delete it)",
                listed(&nodes)
            )
        })
    }
}

/// Objects by their names: there are several for each node, and each is looked up several times.
#[derive(Debug, Clone)]
pub struct Index<'a>(HashMap<&'a str, &'a Value>);

impl<'a> Index<'a> {
    fn new(objects: &'a [Value]) -> Index<'a> {
        Index(objects.iter().map(|o| (name(o), o)).collect())
    }

    /// The object of this name, be it marked as deleted or not.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).copied()
    }

    /// The object of this name, if Calico does not treat it as deleted.
    pub fn live(&self, name: &str) -> Option<&'a Value> {
        self.get(name).filter(|o| !ipam::is_deleted(o))
    }
}
