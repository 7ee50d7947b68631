//! The stand-in for felix: what it reads, what follows from it, and how it makes the kernel agree, again and again.
//!
//! How the real one behaves, and therefore this one:
//! - A Pod bound to this node is an endpoint by its name, whatever CNI made it; its interface is expected under a computed name.
//! - vxlan.calico is compared on every attribute; any difference means delete and create. While another device holds the same VNI and port the kernel
//!   refuses with EEXIST, which felix takes for a race: "can't locate created tunnel device", again each second, and not ready.
//! - Every route, permanent neighbour and FDB entry on vxlan.calico is felix's: unknown ones are deleted. Other addresses on it are removed.
//! - Each block of this node is blackholed (protocol 80) with RTM_NEWROUTE|REPLACE, which overwrites a foreign route of the same prefix and metric; the
//!   connected route of a bridge that is lost in this way does not come back.
//! - Routes on cali interfaces that felix does not want are deleted, whatever their protocol, ten seconds after the interface was first seen, or as soon as felix wants a route there.
//! - Traffic of cali interfaces that belong to no endpoint is dropped; so is VXLAN from nodes without annotations, and what fails the strict reverse-path check.
//! - Until 3.31 a pod's route has metric 0; from 3.32 1024, and there is a table `arp calico-arp` (FELIX_LIKE).
//! - With FELIX_IPV6SUPPORT=true the same once more for IPv6: vxlan-v6.calico, ip6tables, the cali60 sets. What the kernel connects there by itself
//!   (fe80::/64) is left alone; the route of the tunnel's own address is not, and is not missed.
//! - With the API server away it goes on with what it last read.
//!
//! - Whether it manages a tunnel is decided by FELIX_VXLANENABLED, else by the FelixConfiguration, else by the pools, whatever
//!   CALICO_NETWORKING_BACKEND says: a felix for policy alone (Canal) begins to as soon as there is a VXLAN pool.
//!
//! NetworkPolicies are not enforced: the namespace's profile lets everything through.

pub mod arp;
pub mod datastore;
pub mod desired;
pub mod fdb;
pub mod interfaces;
pub mod ipsets;
pub mod options;
pub mod routes;
pub mod rules;
pub mod syncer;
pub mod tables;
pub mod vxlan;

use std::time::Duration;

use anyhow::Result;

use crate::agent::family::Family;
use crate::agent::{self, links};

use datastore::Datastore;
use desired::Desired;
use interfaces::Interfaces;
pub use options::Options;

/// Writes a line of felix's log.
pub(crate) fn log(text: &str) {
    agent::log("felix", text);
}

/// A running felix.
pub struct Felix {
    node: String,
    options: Options,
    interfaces: Interfaces,
    last_error: Option<String>,
}

impl Felix {
    /// A felix that has seen nothing yet.
    pub fn new(node: &str, options: Options) -> Felix {
        let interfaces = Interfaces::new(options.route_grace);
        Felix { node: node.to_owned(), options, interfaces, last_error: None }
    }

    /// How long to wait before the next turn, if nothing happens.
    pub fn pause(&self) -> Duration {
        self.options.resync
    }

    /// Goes through everything once with what was last read; answers readiness.
    pub fn turn(&mut self, read: Option<&Datastore>) -> bool {
        let outcome = match read {
            None => Err(anyhow::anyhow!("not in sync with the datastore yet")),
            Some(read) => {
                let links = self.links();
                let of = |family| Desired::compute(read, &self.node, &self.options, &links, family);
                let wanted: Vec<Desired> = self.options.families().map(of).collect();
                // One family's failure does not stop the other.
                let outcomes: Vec<Result<()>> = wanted.iter().map(|wanted| self.apply(wanted)).collect();
                outcomes.into_iter().collect()
            }
        };
        self.report(outcome)
    }

    fn links(&self) -> Vec<serde_json::Value> {
        links::all().unwrap_or_default()
    }

    /// Logs an error once, not each second.
    fn report(&mut self, outcome: Result<()>) -> bool {
        let error = outcome.err().map(|error| format!("{error:#}"));
        if error != self.last_error
            && let Some(error) = &error
        {
            log(error);
        }
        self.last_error = error;
        self.last_error.is_none()
    }

    /// Makes the kernel agree: sets before the rules that use them, rules before routes. One part's failure does not stop the others.
    fn apply(&mut self, wanted: &Desired) -> Result<()> {
        let sets = ipsets::apply(wanted);
        let rules = tables::apply(&rules::tables(wanted), &wanted.family.iptables(&self.options.iptables));
        let device = vxlan::apply(wanted);
        let links = self.links();
        self.interfaces.look(&links, &self.options.families().collect::<Vec<_>>());
        let routes = routes::apply(wanted, &links, &self.interfaces);
        let neighbours = if device.is_ok() && wanted.vxlan.is_some() { fdb::apply(wanted) } else { Ok(()) };
        let arp = if self.options.has_arp_table() && wanted.family == Family::V4 { arp::apply(wanted) } else { Ok(()) };
        device.and(sets).and(rules).and(routes).and(neighbours).and(arp)
    }
}
