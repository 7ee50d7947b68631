//! Switching a node while its pods run: each pod is re-plumbed where it stands. Which pods can be, and the two orders.

mod to_calico;
mod to_flannel;

use std::net::IpAddr;

use cni_store::evidence::calico_interface;
use ipnet::IpNet;

use crate::adopt::{PodNetwork, Way};
use crate::cni::Cni;
use crate::facts::{ClusterView, Facts, Route, Sandbox};
use crate::prepared::Prepared;
use crate::probe::{Expect, Wanted, wanted};
use crate::request::{Request, Unadoptable};
use crate::step::{AdoptedPod, PeerRoutes, Step};

/// Where a table that nobody uses is looked for.
const FIRST_TABLE: u32 = 28_271;
/// The rule of the main table has 32766.
const BEFORE_MAIN: u32 = 32_765;
/// RTPROT_STATIC.
const STATIC: u8 = 4;

/// flannel's bridge.
const BRIDGE: &str = "cni0";

/// The pods of a node that have a network: those that are re-plumbed, and the others with the reason.
#[derive(Debug, Default)]
pub struct Adoption {
    /// Re-plumbed.
    pub pods: Vec<AdoptedPod>,
    /// Not: `namespace/name`, and why.
    pub others: Vec<(String, String)>,
    /// Flows that were named and are watched.
    pub flows: Vec<Wanted>,
}

/// The steps and what will happen to whom.
pub fn steps(facts: &Facts, cluster: &ClusterView, prepared: &Prepared, request: &Request) -> (Vec<Step>, Vec<String>) {
    let mut adoption = adoption(facts, prepared, request.to);
    let named = named(facts, request);
    let is_rebuilt = |flow: &Wanted| adoption.others.iter().any(|(pod, _)| *pod == flow.from || *pod == flow.to);
    let (rebuilt, watched): (Vec<Wanted>, Vec<Wanted>) = named.into_iter().partition(is_rebuilt);
    adoption.flows = watched;
    let steps = match request.to {
        Cni::Calico => to_calico::steps(facts, prepared, request, &adoption),
        Cni::Flannel => to_flannel::steps(facts, prepared, request, &adoption),
    };
    let mut notes = notes(&adoption, cluster, request);
    let lost = |flow: &Wanted| format!("{}: not watched, since a sandbox at its end is rebuilt", flow.name());
    notes.extend(rebuilt.iter().map(lost));
    notes.extend(forgotten(&adoption));
    notes.extend(gap(facts, &steps));
    (steps, notes)
}

/// What the kernel does to connections that do not keep a pod's own end and their beginner's (`nf_nat_oif_changed`).
fn forgotten(adoption: &Adoption) -> Option<String> {
    (!adoption.pods.is_empty()).then(|| {
        "node ports: a connection that this node masquerades on its way to such a pod ends, since the kernel forgets it when \
         another device leads to the pod; a new one works at once"
            .to_owned()
    })
}

/// What other nodes will miss while the overlay's device changes hands.
fn gap(facts: &Facts, steps: &[Step]) -> Option<String> {
    steps.iter().find_map(|step| match step {
        Step::RenameOverlay { .. } if facts.machine.rename_live == Some(true) => None,
        Step::RenameOverlay { from, .. } => Some(format!(
            "other nodes: out of reach for some milliseconds, since this kernel renames {from} only while it is down"
        )),
        Step::DeleteOverlay { link, why } => Some(format!(
            "other nodes: out of reach from when {link} is deleted until the new agent has its own: {why}"
        )),
        _ => None,
    })
}

/// Which pods can be re-plumbed for the network of `to`.
pub fn adoption(facts: &Facts, prepared: &Prepared, to: Cni) -> Adoption {
    let mut adoption = Adoption::default();
    let way = if facts.machine.rename_live == Some(true) { Way::Live } else { Way::Down };
    let sandboxes = facts.runtime.iter().flat_map(|r| &r.sandboxes);
    let mut sandboxes: Vec<&Sandbox> = sandboxes.filter(|s| s.ready && !s.host_network).collect();
    sandboxes.sort_by_key(|s| (s.full_name(), s.id.clone()));
    for sandbox in sandboxes {
        let interface = calico_interface(&prepared.calico.interface_prefix, &sandbox.namespace, &sandbox.name);
        let judged = seen(facts, sandbox).and_then(|network| {
            match to {
                Cni::Calico => to_calico::judge(facts, network),
                Cni::Flannel => to_flannel::judge(prepared, network, &interface),
            }?;
            in_pod_cidr(prepared, network)?;
            Ok(network)
        });
        match judged {
            Err(why) => adoption.others.push((sandbox.full_name(), why)),
            Ok(network) => adoption.pods.push(AdoptedPod {
                pod: sandbox.full_name(),
                uid: sandbox.uid.clone(),
                sandbox: sandbox.id.clone(),
                ifname: network.ifname.clone(),
                netns: sandbox.netns.clone().unwrap_or_default(),
                ips: network.ips().collect(),
                interface,
                metric: prepared.calico.route_metric,
                way,
            }),
        }
    }
    adoption
}

/// The pod's network as it was looked at, or why it could not be.
fn seen<'a>(facts: &'a Facts, sandbox: &Sandbox) -> Result<&'a PodNetwork, String> {
    let network = facts.plumbing.get(&sandbox.id).ok_or_else(|| "its network could not be looked at".to_owned())?;
    network.as_ref().map_err(Clone::clone)
}

/// Other nodes send to this one what is for its pod CIDR. The first address is the tunnel's, the second the bridge's.
fn in_pod_cidr(prepared: &Prepared, network: &PodNetwork) -> Result<(), String> {
    let cidr = prepared.pod_cidr;
    let taken = [Some(cidr.network()), cidr.hosts().next(), Some(cidr.broadcast())];
    for ip in network.ips().filter(IpAddr::is_ipv4) {
        if !cidr.contains(&ip) {
            return Err(format!("its address {ip} is not of this node's pod CIDR {cidr}"));
        }
        if taken.contains(&Some(ip)) {
            return Err(format!("its address {ip} is one that this node needs for itself"));
        }
    }
    Ok(())
}

/// Every pod that has a network, re-plumbed or not.
fn names(adoption: &Adoption) -> Vec<String> {
    let mut names: Vec<String> = adoption.pods.iter().map(|p| p.pod.clone()).collect();
    names.extend(adoption.others.iter().map(|(pod, _)| pod.clone()));
    names.sort_unstable();
    names.dedup();
    names
}

/// Stops the sandboxes that are not re-plumbed, those born since the plan included.
fn stop_others(made_by: Cni, adoption: &Adoption) -> Step {
    Step::StopSandboxes {
        made_by,
        pods: adoption.others.iter().map(|(pod, _)| pod.clone()).collect(),
        spare: adoption.pods.iter().map(|pod| pod.sandbox.clone()).collect(),
    }
}

/// Keeping the routes to other nodes over the overlay, and letting them go when it has its new name.
fn peer_routes(facts: &Facts, from: &str, to: &str) -> Option<(Step, Step)> {
    let network = &facts.network;
    let is_used =
        |table: u32| network.routes.iter().any(|r| r.table == table) || network.rules.iter().any(|r| r.table == table);
    let table = (FIRST_TABLE..).find(|table| !is_used(*table))?;
    let over = |route: &&Route| route.dev.as_deref() == Some(from) && route.via.is_some() && route.dst.addr().is_ipv4();
    let routes: Vec<Route> =
        network.routes.iter().filter(over).map(|route| Route { table, proto: STATIC, ..route.clone() }).collect();
    let held = PeerRoutes { table, priority: BEFORE_MAIN, routes };
    let renamed = |route: &Route| Route { dev: Some(to.to_owned()), ..route.clone() };
    let then = PeerRoutes { routes: held.routes.iter().map(renamed).collect(), ..held.clone() };
    (!held.routes.is_empty()).then_some((Step::HoldPeerRoutes(held), Step::DropPeerRoutes(then)))
}

/// The flows that were named. Where one cannot be, preflight says so and no plan is carried out.
fn named(facts: &Facts, request: &Request) -> Vec<Wanted> {
    let none = request.probe.is_empty();
    if none { Vec::new() } else { wanted(facts, &request.probe).unwrap_or_default() }
}

/// Whether there is anything to watch.
fn is_watched(adoption: &Adoption) -> bool {
    !adoption.pods.is_empty() || !adoption.flows.is_empty()
}

/// Watching the pods, and what was named besides.
fn watch(adoption: &Adoption) -> Option<Step> {
    is_watched(adoption).then(|| Step::WatchPods { flows: adoption.flows.clone() })
}

/// The end of that.
fn judge_outage(adoption: &Adoption, request: &Request) -> Option<Step> {
    is_watched(adoption).then_some(Step::JudgeOutage { max_ms: request.max_outage_ms })
}

/// One sweep over all pods: a step for each.
fn sweep(adoption: &Adoption, step: impl Fn(AdoptedPod) -> Step) -> impl Iterator<Item = Step> {
    adoption.pods.iter().cloned().map(step)
}

fn notes(adoption: &Adoption, cluster: &ClusterView, request: &Request) -> Vec<String> {
    let replumbed = |p: &AdoptedPod| match p.way {
        Way::Live => format!("{}: re-plumbed while it runs; address and connections stay", p.pod),
        Way::Down => format!(
            "{}: re-plumbed while it runs; address and connections stay. This kernel renames a device only while it is \
             down: the pod's interface loses its carrier for an instant, its traffic takes a veth pair of ours meanwhile",
            p.pod
        ),
    };
    let mut notes: Vec<String> = adoption.pods.iter().map(replumbed).collect();
    notes.extend(adoption.flows.iter().map(|flow| match flow.expect {
        Expect::Pass => format!("{}: watched; must pass", flow.name()),
        Expect::Refuse => format!("{}: watched; must be refused", flow.name()),
    }));
    let fate = match request.unadoptable {
        Unadoptable::Restart => "its sandbox is rebuilt, with a new address",
        Unadoptable::Refuse => "cannot be re-plumbed, so the node is not switched (--unadoptable)",
    };
    let rebuilt = |(pod, why): &(String, String)| format!("{pod}: {fate}: {why}");
    notes.extend(adoption.others.iter().map(rebuilt));
    let known = names(adoption);
    let waiting = cluster.pods.iter().filter(|p| !p.host_network && !p.has_ended() && !known.contains(&p.full_name()));
    notes.extend(waiting.map(|p| format!("{}: has no network now; the switch does not wait for it", p.full_name())));
    notes.sort_unstable();
    notes
}

/// The network address of a subnet's bridge: its first host.
fn gateway(cidr: IpNet) -> IpAddr {
    cidr.hosts().next().unwrap_or_else(|| cidr.addr())
}
