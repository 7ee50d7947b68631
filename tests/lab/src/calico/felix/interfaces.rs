//! cali interfaces: when each was first seen, its sysctls, and addresses that must not be on it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::agent::family::Family;
use crate::agent::{links, set_sysctl};
use crate::command;

use super::desired::{Desired, Target};
use super::log;

/// What every pod interface's name begins with.
pub const PREFIX: &str = "cali";

/// What felix remembers of an interface.
#[derive(Debug, Clone)]
struct Seen {
    index: u64,
    since: Instant,
    configured: bool,
}

/// All cali interfaces that were seen.
#[derive(Debug)]
pub struct Interfaces {
    seen: BTreeMap<String, Seen>,
    grace: Duration,
}

/// True if a link can take routes: up, with a carrier.
pub fn running(link: &Value) -> bool {
    let has = |flag: &str| link["flags"].as_array().is_some_and(|flags| flags.iter().any(|known| known == flag));
    has("UP") && has("LOWER_UP")
}

impl Interfaces {
    /// Nothing seen yet.
    pub fn new(grace: Duration) -> Interfaces {
        Interfaces { seen: BTreeMap::new(), grace }
    }

    /// Goes through the links: a renamed one counts as new. Every cali interface that is up is configured, known endpoint or not.
    pub fn look(&mut self, links: &[Value], families: &[Family]) {
        let now = Instant::now();
        let named = |link: &&Value| link["ifname"].as_str().is_some_and(|name| name.starts_with(PREFIX));
        let mut current = BTreeMap::new();
        for link in links.iter().filter(named) {
            let name = link["ifname"].as_str().unwrap_or_default().to_owned();
            let index = link["ifindex"].as_u64().unwrap_or_default();
            let known = self.seen.get(&name).filter(|seen| seen.index == index).cloned();
            let mut seen = known.unwrap_or(Seen { index, since: now, configured: false });
            if running(link) && !seen.configured {
                families.iter().for_each(|family| configure(&name, *family));
                seen.configured = true;
            }
            families.iter().for_each(|family| strip(&name, link, *family));
            current.insert(name, seen);
        }
        self.seen = current;
    }

    /// True while unwanted routes on the interface are left alone: at first, and only as long as felix wants none there itself.
    pub fn in_grace(&self, name: &str, wanted: &Desired) -> bool {
        let own = wanted.routes.iter().any(|route| route.target == Target::Pod(name.to_owned()));
        let young = self.seen.get(name).is_none_or(|seen| seen.since.elapsed() < self.grace);
        young && !own
    }
}

/// The sysctls of a pod's interface; IPv6 ones are written where the kernel has them.
fn configure(name: &str, family: Family) {
    if family == Family::V6 {
        set_sysctl(&format!("net/ipv6/conf/{name}/proxy_ndp"), "1");
        set_sysctl(&format!("net/ipv6/conf/{name}/forwarding"), "1");
        return;
    }
    let filter =
        std::fs::read_to_string("/proc/sys/net/ipv4/conf/default/rp_filter").unwrap_or_else(|_| "0".to_owned());
    let wanted = [
        (format!("net/ipv6/conf/{name}/accept_ra"), "0"),
        (format!("net/ipv4/conf/{name}/route_localnet"), "1"),
        (format!("net/ipv4/neigh/{name}/proxy_delay"), "0"),
        (format!("net/ipv4/conf/{name}/proxy_arp"), "1"),
        (format!("net/ipv4/conf/{name}/forwarding"), "1"),
        (format!("net/ipv4/conf/{name}/rp_filter"), filter.trim()),
    ];
    for (path, value) in wanted {
        // The interface may have gone meanwhile, or the kernel may have no IPv6.
        set_sysctl(&path, value);
    }
}

/// From 3.30 on no address but the kernel's own stays on a cali interface.
fn strip(name: &str, link: &Value, family: Family) {
    for address in links::addresses(link, family) {
        log(&format!("Removing address {address} from {name}"));
        // The interface may have gone meanwhile.
        let _ = command::run(&["ip", "address", "delete", &address, "dev", name]);
    }
}
