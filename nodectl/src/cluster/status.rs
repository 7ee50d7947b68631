//! `cluster status`: where every node stands. Pure.

use serde::Serialize;

use super::daemon_set as ds;
use super::decision::Survey;
use super::facts::ClusterFacts;
use super::node::NodeView;
use super::object::annotation;
use super::pace;
use super::request::Request;
use crate::cni::{Cni, PREPARED_ANNOTATION};
use crate::prepared::Prepared;
use crate::run_note::RunNote;

/// Where the cluster stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Every Linux node.
    pub nodes: Vec<NodeStatus>,
    /// The CNI that every node is on; `None` while they differ, or while one is between the two.
    pub on: Option<Cni>,
    /// Nodes whose last switch is not over, or cannot be told to be, and why.
    pub unclosed: Vec<String>,
    /// The roll is complete: all nodes are on one CNI, and every switch is over.
    pub complete: bool,
}

/// Where one node stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// Its name.
    pub node: String,
    /// The agent that its label asks for, empty without a label.
    pub wanted: String,
    /// The agents that run on it.
    pub running: Vec<Running>,
    /// Reason of its NetworkUnavailable condition.
    pub network: String,
    /// `yes`, `no`, or what is wrong with the annotation.
    pub prepared: String,
    /// `wait` or `allowed`, empty where it may begin when it is told to.
    pub pace: String,
    /// What its nodectl says of the last run there.
    pub run: Option<RunNote>,
    /// Why that cannot be read, empty where it can.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub run_problem: String,
}

/// An agent's pod on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Running {
    /// Which.
    pub agent: Cni,
    /// `ready`, `starting` or `leaving`.
    pub state: &'static str,
}

/// Looks where every node stands; the roll is complete when all are on one CNI, the wanted one where one is wanted, and no node
/// may still go back by itself or has to be finished.
pub fn status(facts: &ClusterFacts, wanted: Option<Cni>) -> Status {
    let request = Request::default();
    let survey = Survey::new(facts, &request);
    let nodes: Vec<NodeStatus> =
        survey.nodes.iter().filter(|n| !n.is_foreign()).map(|n| node_status(facts, n)).collect();
    let mut on = nodes.iter().map(NodeStatus::on);
    let first = on.next().flatten();
    let on = first.filter(|cni| on.all(|other| other == Some(*cni)));
    let unclosed = survey.nodes_for(|n| n.unclosed());
    let is_there = on.is_some_and(|cni| wanted.is_none_or(|w| w == cni));
    Status { nodes, on, complete: is_there && unclosed.is_empty(), unclosed }
}

fn node_status(facts: &ClusterFacts, node: &NodeView) -> NodeStatus {
    let pods = facts.pods.iter().filter(|p| p.node == node.name);
    let mut running: Vec<Running> = pods
        .filter_map(|pod| {
            let state = match (pod.terminating, pod.ready) {
                (true, _) => "leaving",
                (false, true) => "ready",
                (false, false) => "starting",
            };
            Some(Running { agent: ds::agent_of(facts, pod)?, state })
        })
        .collect();
    running.sort_by_key(|r| r.agent);
    let prepared = match annotation(node.object, PREPARED_ANNOTATION).map(Prepared::parse) {
        None => "no".to_owned(),
        Some(Ok(_)) => "yes".to_owned(),
        Some(Err(problem)) => problem,
    };
    let (run, run_problem) = match node.run() {
        None => (None, String::new()),
        Some(Ok(note)) => (Some(note), String::new()),
        Some(Err(problem)) => (None, problem),
    };
    NodeStatus {
        node: node.name.to_owned(),
        wanted: node.wanted.unwrap_or_default().to_owned(),
        running,
        network: node.network_reason().to_owned(),
        prepared,
        pace: pace::of(node).unwrap_or_default().to_owned(),
        run,
        run_problem,
    }
}

impl NodeStatus {
    /// The CNI that the node is on: its agent is ready, alone, and the one that the label asks for.
    fn on(&self) -> Option<Cni> {
        match self.running.as_slice() {
            [Running { agent, state: "ready" }] if self.wanted.is_empty() || self.wanted == agent.name() => {
                Some(*agent)
            }
            _ => None,
        }
    }
}
