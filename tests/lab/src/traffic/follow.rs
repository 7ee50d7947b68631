//! Probing pairs of pods by name, through restarts of their sandboxes and changes of their addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::endpoint::netns;
use super::probe::{Report, now};
use super::prober::Prober;
use super::{Endpoint, Flow};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::Node;

/// How often pods are looked at.
const PERIOD: Duration = Duration::from_millis(100);
/// How long pairs may be silent before their processes are started anew, and how often.
const SILENT: Duration = Duration::from_secs(10);
const TRIES: usize = 6;
/// Datagrams of one process to one target are kept apart from those to its next address by this key.
type Key = (Endpoint, SocketAddr);

/// Running probes; dropping them stops them.
pub struct Traffic {
    state: Arc<Mutex<State>>,
    stopping: Arc<AtomicBool>,
    follower: Option<JoinHandle<()>>,
}

/// What runs and what is known.
struct State {
    client: Client,
    nodes: Vec<Arc<dyn Node>>,
    rate: u32,
    pairs: Vec<(Endpoint, Endpoint)>,
    sources: BTreeMap<Endpoint, Source>,
    /// Numbers of processes that have ended, in order.
    past: Vec<(Endpoint, Endpoint, Report)>,
}

/// The process of one source.
struct Source {
    prober: Prober,
    /// What the process was started for: another sandbox needs another process.
    identity: String,
    targets: BTreeMap<Endpoint, SocketAddr>,
}

impl Traffic {
    /// Starts to probe each pair with `rate` datagrams a second; answers when every pair has been answered once.
    pub fn start(cluster: &Cluster, pairs: &[(Endpoint, Endpoint)], rate: u32) -> Result<Traffic> {
        let state = State {
            client: cluster.client()?,
            nodes: cluster.shared_nodes(),
            rate,
            pairs: pairs.to_vec(),
            sources: BTreeMap::new(),
            past: Vec::new(),
        };
        let (state, stopping) = (Arc::new(Mutex::new(state)), Arc::new(AtomicBool::new(false)));
        let (mine, stop) = (Arc::clone(&state), Arc::clone(&stopping));
        let follower = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                lock(&mine).follow();
                std::thread::sleep(PERIOD);
            }
        });
        let traffic = Traffic { state, stopping, follower: Some(follower) };
        traffic.warm().context("probes did not get through before anything was done")?;
        Ok(traffic)
    }

    /// Waits until every pair has been answered, by processes that met a network that knew them all: what it loses until its agents
    /// know a new pod is not what is followed, and the kernel remembers where the first datagram to a node's port went, also from
    /// before there was a rule for it.
    fn warm(&self) -> Result<()> {
        let mut through = self.get_through();
        for _ in 0..TRIES {
            let is_known = through.is_ok();
            lock(&self.state).begin_anew();
            through = self.get_through();
            if is_known && through.is_ok() {
                break;
            }
        }
        through
    }

    fn get_through(&self) -> Result<()> {
        crate::cluster::until(SILENT, || {
            let flows = self.flows();
            let silent: Vec<String> =
                flows.iter().filter(|flow| flow.sent == flow.lost).map(ToString::to_string).collect();
            Ok(if silent.is_empty() { None } else { Some(format!("no answers: {}", silent.join("; "))) })
        })
    }

    /// The numbers so far; datagrams that are under way count as lost.
    pub fn flows(&self) -> Vec<Flow> {
        lock(&self.state).flows()
    }

    /// Stops and answers the numbers.
    pub fn finish(mut self) -> Vec<Flow> {
        self.stop();
        let end = now();
        let mut state = lock(&self.state);
        // All are told before the first is waited for.
        state.sources.values_mut().for_each(|running| running.prober.stop());
        for (source, running) in std::mem::take(&mut state.sources) {
            state.retire(&source, running);
        }
        state.flows().into_iter().map(|flow| flow.ended(end)).collect()
    }

    /// Ends the follower.
    fn stop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(follower) = self.follower.take() {
            let _ = follower.join();
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The state, for as long as the answer lives.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Forgets all numbers; the follower starts new processes.
    fn begin_anew(&mut self) {
        self.sources.values_mut().for_each(|running| running.prober.stop());
        self.sources.clear();
        self.past.clear();
    }

    /// Sees that each source has its process, and each process its targets' present addresses. What cannot be seen now stays as it is.
    fn follow(&mut self) {
        let Ok(pods) = self.client.list("/api/v1/pods") else {
            return;
        };
        let wanted: BTreeSet<Endpoint> = self.pairs.iter().map(|(source, _)| source.clone()).collect();
        for source in wanted {
            let Some((node, identity)) = self.place(&source, &pods) else {
                continue;
            };
            let is_current = self
                .sources
                .get_mut(&source)
                .is_some_and(|running| running.identity == identity && !running.prober.has_ended());
            if !is_current {
                let Ok(prober) = launch(node.as_ref(), &source, &pods, self.rate) else {
                    continue;
                };
                let fresh = Source { prober, identity, targets: BTreeMap::new() };
                if let Some(old) = self.sources.insert(source.clone(), fresh) {
                    self.retire(&source, old);
                }
            }
            self.aim(&source, &pods);
        }
    }

    /// The node of a source and what tells its present sandbox from the next one; nothing while it is not running.
    fn place(&self, source: &Endpoint, pods: &[Value]) -> Option<(Arc<dyn Node>, String)> {
        let (name, identity) = match source {
            Endpoint::Host(name) => {
                (name.clone(), self.nodes.iter().find(|node| node.name() == name)?.pid().ok()?.to_string())
            }
            _ => {
                let pod = source.find(pods)?;
                pod["status"]["podIP"].as_str()?;
                let container = pod["status"]["containerStatuses"][0]["containerID"].as_str()?;
                (pod["spec"]["nodeName"].as_str()?.to_owned(), format!("{} {container}", pod["metadata"]["uid"]))
            }
        };
        let node = self.nodes.iter().find(|node| node.name() == name)?;
        Some((Arc::clone(node), identity))
    }

    /// Tells a source's process where its targets are now.
    fn aim(&mut self, source: &Endpoint, pods: &[Value]) {
        let nodes: Vec<&dyn Node> = self.nodes.iter().map(AsRef::as_ref).collect();
        let Some(running) = self.sources.get_mut(source) else {
            return;
        };
        for (_, target) in self.pairs.iter().filter(|(from, _)| from == source) {
            let Some(address) = target.address(pods, &nodes) else {
                continue;
            };
            if running.targets.get(target) == Some(&address) {
                continue;
            }
            if let Some(old) = running.targets.get(target)
                && let Some(report) = running.prober.report(&key(&(target.clone(), *old)))
            {
                self.past.push((source.clone(), target.clone(), report));
                let _ = running.prober.forget(&key(&(target.clone(), *old)));
            }
            if running.prober.set(&key(&(target.clone(), address)), address).is_ok() {
                running.targets.insert(target.clone(), address);
            }
        }
    }

    /// Ends a process and keeps its numbers.
    fn retire(&mut self, source: &Endpoint, running: Source) {
        let reports = running.prober.finish();
        for (target, address) in running.targets {
            if let Some(report) = reports.get(&key(&(target.clone(), address))) {
                self.past.push((source.clone(), target, report.clone()));
            }
        }
    }

    /// The numbers of each pair.
    fn flows(&self) -> Vec<Flow> {
        self.pairs
            .iter()
            .map(|(source, target)| {
                let past = self
                    .past
                    .iter()
                    .filter(|(from, to, _)| from == source && to == target)
                    .map(|(_, _, report)| report.clone());
                let present = self.sources.get(source).and_then(|running| {
                    let address = running.targets.get(target)?;
                    running.prober.report(&key(&(target.clone(), *address)))
                });
                past.chain(present).fold(Flow::new(source.clone(), target.clone()), |flow, report| flow.with(&report))
            })
            .collect()
    }
}

/// Starts a source's process where its pod is.
fn launch(node: &dyn Node, source: &Endpoint, pods: &[Value], rate: u32) -> Result<Prober> {
    let path = match source.find(pods) {
        Some(pod) => Some(netns(node, pod)?),
        None => None,
    };
    Prober::start(node, path.as_deref(), rate)
}

/// A target's name for the process.
fn key((target, address): &Key) -> String {
    format!("{target}@{address}").replace(' ', "_")
}
