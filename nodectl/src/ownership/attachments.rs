//! The pods on a node, and which CNI each hangs on.

use std::collections::BTreeSet;

use cni_store::evidence::calico_interface;

use super::known::plugin;
use crate::cni::Cni;
use crate::facts::{Facts, Link, Note, Sandbox};

/// A pod that hangs on a CNI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The device on the host.
    pub link: String,
    /// `namespace/name`, where the runtime tells.
    pub pod: Option<String>,
}

/// The pods whose devices are the CNI's, and that live as far as can be told. Where the runtime does not answer, a device
/// whose other end is in another namespace counts: it would have gone with its pod. Canal's pods need both CNIs.
pub fn attached(facts: &Facts, cni: Cni) -> Vec<Attached> {
    let is_canals = |link: &Link| cni == Cni::Flannel && facts.is_canal() && may_be_canals(facts, link);
    let devices = facts.network.links.iter().filter(|link| is_device(facts, link, cni) || is_canals(link));
    devices
        .filter(|link| link.peer_index.is_some())
        .filter_map(|link| {
            let pod = owner(facts, link).map(Sandbox::full_name);
            // The runtime answers, and what is known of the device leads to none of its sandboxes.
            let leaked = pod.is_none() && is_leaked(facts, link);
            (!leaked).then(|| Attached { link: link.name.clone(), pod })
        })
        .collect()
}

/// Devices of pods that are gone: the runtime answers, and has no sandbox for what is known of the device.
pub fn leaked(facts: &Facts, cni: Cni) -> Vec<String> {
    let devices = facts.network.links.iter().filter(|link| is_device(facts, link, cni));
    devices.filter(|link| owner(facts, link).is_none() && is_leaked(facts, link)).map(|l| l.name.clone()).collect()
}

/// Containers that live, and hang on another CNI than this.
pub fn others(facts: &Facts, cni: Cni) -> BTreeSet<String> {
    live(facts).filter(|s| of(facts, &s.id).is_some_and(|owner| owner != cni)).map(|s| s.id.clone()).collect()
}

/// The CNI that made a container's attachment: as the shim noted, or as its cached result tells.
pub fn of(facts: &Facts, container: &str) -> Option<Cni> {
    let noted = facts.shim.attachments.iter();
    let by_shim = noted.filter(|(_, ids)| ids.iter().any(|id| id.starts_with(container))).map(|(cni, _)| *cni).next();
    by_shim.or_else(|| {
        let mut own = notes(facts).filter(|note| note.container == container);
        // Canal's pods have Calico's plugin, and host-local's address.
        if own.any(|note| note.path.starts_with(&format!("{}/", super::files::LEASES))) {
            return Some(Cni::Flannel);
        }
        let plugins = notes(facts).filter(|note| note.container == container).find_map(|note| note.plugins.first())?;
        [Cni::Flannel, Cni::Calico].into_iter().find(|cni| plugin(*cni) == plugins)
    })
}

/// Ready sandboxes with a network of their own.
pub fn live(facts: &Facts) -> impl Iterator<Item = &Sandbox> {
    facts.runtime.iter().flat_map(|r| &r.sandboxes).filter(|s| s.ready && !s.host_network)
}

/// A pod's device of this CNI: a port of cni0, or an interface that Calico's plugin named.
pub fn is_device(facts: &Facts, link: &Link, cni: Cni) -> bool {
    match cni {
        Cni::Flannel => super::links::is_bridge_port(link) && facts.network.link("cni0").is_some(),
        Cni::Calico => super::links::is_pod_name(&link.name, "cali") && matches!(link.kind.as_str(), "veth" | "netkit"),
    }
}

/// Whether a device of Calico's plugin on a cluster with Canal may be that of one of Canal's pods: host-local has a lease for the
/// pod, or the runtime does not say which pod it is.
fn may_be_canals(facts: &Facts, link: &Link) -> bool {
    let noted = || notes(facts).filter(|n| n.links.contains(&link.name)).find_map(|n| of(facts, &n.container));
    is_device(facts, link, Cni::Calico)
        && match owner(facts, link) {
            Some(sandbox) => of(facts, &sandbox.id) == Some(Cni::Flannel),
            None => noted() != Some(Cni::Calico),
        }
}

/// The living sandbox that a device leads to.
fn owner<'f>(facts: &'f Facts, link: &Link) -> Option<&'f Sandbox> {
    let noted = |s: &Sandbox| notes(facts).any(|n| n.container == s.id && n.links.contains(&link.name));
    let named = |s: &Sandbox| link.name == calico_interface("cali", &s.namespace, &s.name);
    live(facts).find(|s| noted(s) || named(s))
}

/// Enough is known of the device to say that its pod is gone.
fn is_leaked(facts: &Facts, link: &Link) -> bool {
    if facts.runtime.is_none() {
        return false;
    }
    // A name of Calico's tells its pod. A port of cni0 only where the runtime noted whose it was.
    super::links::is_pod_name(&link.name, "cali") || notes(facts).any(|n| n.links.contains(&link.name))
}

fn notes(facts: &Facts) -> impl Iterator<Item = &Note> {
    facts.traces.iter().flat_map(|t| &t.notes)
}
