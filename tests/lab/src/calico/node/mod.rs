//! The stand-in for calico-node: startup, tunnel address, CNI token, felix; VXLAN, iptables, Kubernetes datastore; IPv4, and IPv6 with
//! IP6=autodetect and FELIX_IPV6SUPPORT=true.
//!
//! How the real one behaves, and therefore this one:
//! - startup writes /var/lib/calico/nodename, detects the node's address anew (with IP=autodetect it overwrites the Node's annotation) and makes
//!   ClusterInformation, a default pool and a default FelixConfiguration where there are none.
//! - With IP6=autodetect the IPv6 address is detected too; unset or "none", what is annotated stays.
//! - The annotated tunnel address is kept only if IPAM holds it for this node's tunnel; otherwise another one is assigned and the annotation rewritten.
//! - preStop sets NetworkUnavailable=True with reason CalicoIsDown, which taints the node; with a grace period of 0 it may not run at all.
//!   LAB_PRESTOP=skip leaves it out, LAB_PRESTOP=sometimes tosses a coin.
//! - Nothing is removed from the node on exit: device, routes, neighbours, rules, sets, files all stay.
//! - With CALICO_NETWORKING_BACKEND=none (Canal) it looks for no address, has no tunnel address and sets no condition; felix is the same.
//!
//! What felix does stands in [`super::felix`].

pub mod chores;
pub mod startup;
pub mod tunnel;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::agent::api::Api;
use crate::agent::watch::{self, LinkEvent};
use crate::agent::{self, condition, env, health, stop};

use super::felix::datastore::Datastore;
use super::felix::{self, Felix, syncer};

/// What wakes the main loop.
enum Event {
    /// SIGTERM or SIGINT.
    Stop,
    /// A link came or went.
    Link(LinkEvent),
    /// The datastore has changed.
    Datastore(Arc<Datastore>),
}

/// Where readiness and liveness are answered.
const HEALTH: &str = "127.0.0.1:9099";

/// CALICO_NETWORKING_BACKEND=none: policy alone, the network is another program's.
pub(crate) fn is_policy_only() -> bool {
    env("CALICO_NETWORKING_BACKEND").is_some_and(|backend| backend == "none")
}

pub(crate) fn log(text: &str) {
    agent::log("calico-node", text);
}

/// `nodectl-lab calico-node [--felix-ready | --felix-live | --shutdown]`: the node itself, a probe, or the preStop hook.
pub fn main(args: &[String]) -> Result<ExitCode> {
    match args.iter().map(|arg| arg.trim_start_matches('-')).collect::<Vec<_>>()[..] {
        ["felix-ready", ..] => probe("/readiness"),
        ["felix-live", ..] => probe("/liveness"),
        ["shutdown", ..] => {
            let api = agent::connect("calico-node")?;
            shutdown(api.as_ref(), &agent::node_name()?);
            Ok(ExitCode::SUCCESS)
        }
        _ => Running::start()?.run(),
    }
}

fn probe(path: &str) -> Result<ExitCode> {
    health::ask(HEALTH, path)?;
    Ok(ExitCode::SUCCESS)
}

/// What the preStop hook does, unless LAB_PRESTOP says that it does not get to run. A dead API server only costs the condition.
fn shutdown(api: &dyn Api, node: &str) {
    let runs = match env("LAB_PRESTOP").as_deref() {
        Some("skip") => false,
        Some("sometimes") => std::process::id().is_multiple_of(2),
        _ => !is_policy_only(),
    };
    if !runs {
        return;
    }
    let message = "Calico is shutting down on this node";
    if let Err(error) = condition::set_network_unavailable(api, node, true, "CalicoIsDown", message) {
        log(&format!("Unable to set NetworkUnavailable to True: {error}"));
    }
    // Read at the next start to tell how long the node was without Calico.
    let _ = std::fs::write("/var/lib/calico/shutdownTS", jiff::Timestamp::now().to_string());
}

/// A running calico-node.
struct Running {
    api: Arc<dyn Api>,
    node: String,
    options: felix::Options,
    felix: Felix,
    datastore: Option<Arc<Datastore>>,
    ready: health::Flag,
}

impl Running {
    fn start() -> Result<Running> {
        let node = agent::node_name()?;
        let api = agent::connect("calico-node")?;
        startup::run(api.as_ref(), &node)?;
        if !is_policy_only() {
            tunnel::ensure_all(api.as_ref(), &node).context("the tunnel address could not be assigned")?;
        }
        let ready = health::Flag::new(false.into());
        let live = health::Flag::new(true.into());
        health::serve(HEALTH, BTreeMap::from([("/readiness", ready.clone()), ("/liveness", live)]))?;
        let options = felix::Options::from_env()?;
        let felix = Felix::new(&node, options.clone());
        Ok(Running { api, node, options, felix, datastore: None, ready })
    }

    fn run(mut self) -> Result<ExitCode> {
        let (sender, events) = mpsc::channel();
        stop::on_stop(sender.clone(), Event::Stop)?;
        watch::link_events(sender.clone(), Event::Link)?;
        syncer::start(self.api.clone(), &self.node, self.options.clone(), sender, Event::Datastore);
        chores::start(self.api.clone(), &self.node, self.ready.clone());
        loop {
            let until = Instant::now() + self.felix.pause();
            if self.wait(&events, until) {
                break;
            }
            let ready = self.felix.turn(self.datastore.as_deref());
            self.ready.store(ready, Ordering::SeqCst);
        }
        self.stop();
        Ok(ExitCode::SUCCESS)
    }

    /// Waits for the next turn; true means stop. A cali interface that comes up is looked at at once, as felix does,
    /// or nearly: a new veth causes several events, which are taken together.
    fn wait(&mut self, events: &mpsc::Receiver<Event>, mut until: Instant) -> bool {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match stop::wait(events, left) {
                Some(Event::Stop) => return true,
                Some(Event::Link(LinkEvent::Changed(name))) if name.starts_with("cali") => {
                    until = until.min(Instant::now() + Duration::from_millis(30));
                }
                Some(Event::Link(_)) => {}
                Some(Event::Datastore(read)) => {
                    self.datastore = Some(read);
                    until = Instant::now();
                }
                None => return false,
            }
        }
    }

    fn stop(&self) {
        shutdown(self.api.as_ref(), &self.node);
        log("Exiting; everything stays on the node");
    }
}
