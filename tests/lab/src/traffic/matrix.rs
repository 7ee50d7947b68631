//! All pairs once: who reaches whom, and as whom they are seen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Endpoint;
use super::endpoint::{netns, pod_address};
use super::prober::Prober;
use crate::agent::family::Family;
use crate::cluster::{Cluster, is_ready};
use crate::node::Node;

/// One pair's answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// Where the datagram came from.
    pub source: Endpoint,
    /// Where it went.
    pub target: Endpoint,
    /// The source's own address, where it is a pod.
    pub address: Option<String>,
    /// The address that the target saw; none without an answer.
    pub seen: Option<String>,
}

impl Pair {
    /// True when it was answered and the target saw the source's own address.
    pub fn is_whole(&self) -> bool {
        self.seen.is_some() && (self.address.is_none() || self.address == self.seen)
    }
}

/// How long an answer is waited for; datagrams are repeated until then.
const LIMIT: Duration = Duration::from_secs(2);
/// Datagrams a second.
const RATE: u32 = 20;

/// Asks all pods on pod networks that are ready, each from each, themselves left out, over IPv4.
pub fn matrix(cluster: &Cluster) -> Result<Vec<Pair>> {
    matrix_in(cluster, Family::V4)
}

/// The same over one of the families of a dual-stack cluster.
pub fn matrix_in(cluster: &Cluster, family: Family) -> Result<Vec<Pair>> {
    let pods = cluster.client()?.list("/api/v1/pods")?;
    let ends: Vec<Endpoint> = pods
        .iter()
        .filter(|pod| is_ready(pod) && pod["spec"]["hostNetwork"] != true)
        .map(|pod| {
            let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
            Endpoint::Pod(text("namespace"), text("name"))
        })
        .collect();
    let pairs = ends.iter().flat_map(|source| {
        ends.iter().filter(move |target| *target != source).map(move |target| (source.clone(), target.clone()))
    });
    asked(cluster, &pairs.collect::<Vec<_>>(), family)
}

/// Asks the given pairs, over IPv4.
pub fn matrix_of(cluster: &Cluster, pairs: &[(Endpoint, Endpoint)]) -> Result<Vec<Pair>> {
    asked(cluster, pairs, Family::V4)
}

fn asked(cluster: &Cluster, pairs: &[(Endpoint, Endpoint)], family: Family) -> Result<Vec<Pair>> {
    let pods = cluster.client()?.list("/api/v1/pods")?;
    let nodes = cluster.shared_nodes();
    let mut sources: Vec<&Endpoint> = pairs.iter().map(|(source, _)| source).collect();
    sources.sort();
    sources.dedup();
    let mut found: Vec<Pair> = std::thread::scope(|scope| {
        let asked: Vec<_> = sources
            .into_iter()
            .map(|source| {
                let targets: Vec<&Endpoint> =
                    pairs.iter().filter(|(from, _)| from == source).map(|(_, to)| to).collect();
                let (pods, nodes) = (&pods, &nodes);
                scope.spawn(move || ask(source, &targets, pods, nodes, family))
            })
            .collect();
        let answers =
            asked.into_iter().map(|asked| asked.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a probe panicked"))));
        answers.collect::<Result<Vec<_>>>().map(|lists| lists.into_iter().flatten().collect::<Vec<_>>())
    })?;
    found.sort();
    Ok(found)
}

/// Asks all targets of one source.
fn ask(
    source: &Endpoint,
    targets: &[&Endpoint],
    pods: &[Value],
    nodes: &[Arc<dyn Node>],
    family: Family,
) -> Result<Vec<Pair>> {
    let pod = source.find(pods);
    let name = match (source, pod) {
        (Endpoint::Host(name), _) => name.clone(),
        (_, Some(pod)) => pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned(),
        _ => anyhow::bail!("the source {source} is not there"),
    };
    let node =
        nodes.iter().find(|node| node.name() == name).with_context(|| format!("the cluster has no node {name}"))?;
    let path = match pod {
        Some(pod) => Some(netns(node.as_ref(), pod)?),
        None => None,
    };
    let all: Vec<&dyn Node> = nodes.iter().map(AsRef::as_ref).collect();
    let mut prober = Prober::start(node.as_ref(), path.as_deref(), RATE)?;
    for (number, target) in targets.iter().enumerate() {
        let address = target.address_in(family, pods, &all);
        let address = address.with_context(|| format!("the target {target} has no {family} address"))?;
        prober.set(&number.to_string(), address)?;
    }
    let until = Instant::now() + LIMIT;
    let is_silent =
        |prober: &Prober, number: usize| prober.report(&number.to_string()).is_none_or(|report| report.answered == 0);
    while (0..targets.len()).any(|number| is_silent(&prober, number)) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    let address = pod.and_then(|pod| pod_address(pod, family)).map(|ip| ip.to_string());
    let pairs = targets.iter().enumerate().map(|(number, target)| Pair {
        source: source.clone(),
        target: (*target).clone(),
        address: address.clone(),
        seen: prober.report(&number.to_string()).and_then(|report| report.seen.first().cloned()),
    });
    Ok(pairs.collect())
}
