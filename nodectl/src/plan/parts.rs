//! The parts of which both directions' plans are made.

use std::net::IpAddr;
use std::path::Path;

use cni_spec::conflist::List;
use cni_store::Paths;
use cni_store::backends::{Backends, shim_conflist, union_of_capabilities};

use crate::cni::Cni;
use crate::facts::{ClusterView, Facts, Network, Pod, Sandbox};
use crate::ownership::{self, attachments};
use crate::prepared::Prepared;
use crate::request::Request;
use crate::step::{Agent, CidrsV6, CleanScope, Step, Targets};

/// Where the package keeps the shim.
pub const PACKAGED_SHIM: &str = "/usr/libexec/nodectl/cni-shim";
/// The shim's conflist; sorts before flannel's, Calico's and the distributions' own.
pub const SHIM_CONFLIST: &str = "00-cni-shim.conflist";
/// The shim's state folder.
pub const SHIM_STATE_DIR: &str = "/var/lib/cni-shim";
/// Pays what a run owes, again and again until nothing is left; at boot, and when a run ends owing.
pub const SETTLE_UNIT: &str = "nodectl-settle.service";
/// Takes back a run that was not confirmed in time; its timer is transient, made by the run.
pub const DEADMAN_UNIT: &str = "nodectl-deadman.service";
/// That timer.
pub const DEADMAN_TIMER: &str = "nodectl-deadman.timer";
/// Boot-time units, in the order in which they run.
pub const BOOT_UNITS: [&str; 2] = ["nodectl-boot.service", SETTLE_UNIT];

/// Plugin binaries that Calico's installer overwrites with its own builds.
const OVERWRITTEN: [&str; 7] = ["bandwidth", "flannel", "host-local", "loopback", "portmap", "tuning", "bridge"];

/// Name of the overlay device of a CNI, the IPv4 or the IPv6 one.
pub fn overlay_name(cni: Cni, vni: u32, ipv6: bool) -> String {
    match (cni, ipv6) {
        (Cni::Flannel, false) => format!("flannel.{vni}"),
        (Cni::Flannel, true) => format!("flannel-v6.{vni}"),
        (Cni::Calico, false) => "vxlan.calico".into(),
        (Cni::Calico, true) => "vxlan-v6.calico".into(),
    }
}

/// What tells this CNI's objects from others'.
pub fn scope(facts: &Facts, prepared: &Prepared, cni: Cni) -> CleanScope {
    let info = prepared.agent(cni);
    CleanScope {
        cluster_cidr: prepared.cluster_cidr,
        pod_cidr: prepared.pod_cidr,
        ipv6: prepared.ipv6.as_ref().map(|v6| CidrsV6 { cluster_cidr: v6.cluster_cidr, pod_cidr: v6.pod_cidr }),
        vni: prepared.vni,
        network: info.network.clone(),
        conflist: info.conflist.clone(),
        conf_dir: facts.files.conf_dir.clone(),
        bin_dir: facts.files.bin_dir.clone(),
        interface_prefix: prepared.calico.interface_prefix.clone(),
        canal: prepared.canal,
        keep_bridge: false,
    }
}

/// What starting or stopping this CNI's agent needs to know.
pub fn agent(facts: &Facts, prepared: &Prepared, cni: Cni, timeout_s: u64) -> Agent {
    let plugins: &[&str] = match cni {
        Cni::Flannel if prepared.canal => &["calico", "host-local", "portmap"],
        Cni::Flannel => &["flannel", "bridge", "host-local", "portmap"],
        Cni::Calico => &["calico", "calico-ipam", "portmap"],
    };
    let info = prepared.agent(cni);
    let dir = Path::new(&facts.files.bin_dir);
    Agent {
        cni,
        namespace: info.namespace.clone(),
        daemonset: info.daemonset.clone(),
        conflist: join(&facts.files.conf_dir, &info.conflist),
        binaries: plugins.iter().map(|p| dir.join(p).display().to_string()).collect(),
        overlay: overlay_name(cni, prepared.vni, false),
        overlay6: prepared.ipv6.as_ref().map(|_| overlay_name(cni, prepared.vni, true)),
        scope: scope(facts, prepared, cni),
        timeout_s,
    }
}

/// Tunnel addresses of this node's peers: gateways of the routes over the overlay.
pub fn peers(network: &Network, overlay: &str) -> Vec<IpAddr> {
    let mut peers: Vec<IpAddr> =
        network.routes.iter().filter(|r| r.dev.as_deref() == Some(overlay)).filter_map(|r| r.via).collect();
    peers.sort_unstable();
    peers.dedup();
    peers
}

/// Names of a CNI's overlay devices on this node, IPv4 first.
pub fn overlays(prepared: &Prepared, cni: Cni) -> impl Iterator<Item = String> {
    prepared.halves().map(move |half| overlay_name(cni, prepared.vni, half.is_ipv6()))
}

/// What is probed before and after the switch.
fn targets(facts: &Facts, prepared: &Prepared, from: Cni) -> Targets {
    Targets {
        peers: overlays(prepared, from).flat_map(|overlay| peers(&facts.network, &overlay)).collect(),
        service: prepared.probe.service.clone(),
        dns: prepared.probe.dns.clone(),
        host: Some(prepared.vtep.public_ip),
    }
}

/// Steps that every switch begins with: binaries kept, the shim in front with behaviour unchanged.
pub fn prologue(facts: &Facts, prepared: &Prepared, from: Cni) -> Vec<Step> {
    let mut steps = Vec::new();
    // On Canal the plugin that serves now has the name of the one that comes.
    let both: &[&str] = if prepared.canal { &["calico", "calico-ipam"] } else { &[] };
    let names = OVERWRITTEN.iter().chain(both).filter(|n| facts.files.binaries.contains_key(**n));
    let names: Vec<String> = names.map(|n| (*n).to_owned()).collect();
    // First: they are what is undone last.
    steps.extend(boot_units(facts).map(|units| Step::EnableBootUnits { units }));
    steps.push(Step::PreserveBinaries { dir: facts.files.bin_dir.clone(), names });
    let to = from.other();
    let files = ownership::owned(facts, to, &scope(facts, prepared, to)).files;
    if !files.is_empty() {
        steps.push(Step::PreserveFiles { cni: to, files });
    }
    if facts.shim.mode.is_none() {
        steps.push(Step::InstallShimBinary { from: PACKAGED_SHIM.into(), to: join(&facts.files.bin_dir, "cni-shim") });
        steps.push(Step::SetShimState { to: from });
        steps.push(Step::InstallShimConflist {
            path: join(&facts.files.conf_dir, SHIM_CONFLIST),
            content: front_conflist(facts, prepared, from),
        });
        steps.push(Step::ImportAttachments { made_by: from });
    }
    steps
}

/// The shim's conflist keeps the network name of the node's own one: containerd finds the results of older pods by it,
/// and taking the shim away again is then invisible to them.
fn front_conflist(facts: &Facts, prepared: &Prepared, from: Cni) -> serde_json::Value {
    let network = &prepared.agent(from).network;
    let backends = Backends {
        network: network.clone(),
        flannel: join(&facts.files.conf_dir, &prepared.flannel.conflist).into(),
        calico: join(&facts.files.conf_dir, &prepared.calico.conflist).into(),
    };
    let lists: Vec<List> =
        facts.files.confs.values().filter_map(|c| List::parse(c.to_string().as_bytes()).ok()).collect();
    let paths = Paths::new("/", SHIM_STATE_DIR);
    shim_conflist(network, &paths, &backends, &union_of_capabilities(&lists), shim_backend(from))
}

/// The shim's name for a CNI.
pub fn shim_backend(cni: Cni) -> cni_store::state::Backend {
    match cni {
        Cni::Flannel => cni_store::state::Backend::Flannel,
        Cni::Calico => cni_store::state::Backend::Calico,
    }
}

/// Cordon, evict, measure what answers, hold new attachments: new pods wait from here on.
pub fn quiesce(facts: &Facts, cluster: &ClusterView, prepared: &Prepared, request: &Request) -> Vec<Step> {
    let mut pods: Vec<String> = cluster.pods.iter().filter(|p| moves(p)).map(Pod::full_name).collect();
    pods.sort_unstable();
    let mut steps =
        vec![Step::Cordon, Step::Evict { pods, timeout_s: request.drain_timeout_s, grace_s: request.grace_s }];
    // After the eviction, which may take an hour: what answered then may have left the cluster since.
    steps.extend(measure_and_hold(facts, prepared, request));
    steps
}

/// Measure what answers, hold new attachments.
pub fn measure_and_hold(facts: &Facts, prepared: &Prepared, request: &Request) -> Vec<Step> {
    vec![Step::Baseline { targets: targets(facts, prepared, request.to.other()) }, Step::Hold { next: request.to }]
}

/// Verify through the new network, let pods go on, uncordon: the node works again.
pub fn reopen(facts: &Facts, cluster: &ClusterView, prepared: &Prepared, request: &Request) -> Vec<Step> {
    let mut steps = prove_and_release(facts, prepared, request, connected(facts, cluster));
    if !cluster.unschedulable {
        steps.push(Step::Uncordon);
    }
    steps
}

/// Verify through the new network, let pods go on, wait for these.
pub fn prove_and_release(facts: &Facts, prepared: &Prepared, request: &Request, pods: Vec<String>) -> Vec<Step> {
    vec![
        Step::Probe { via: request.to, targets: targets(facts, prepared, request.to.other()) },
        Step::Release { to: request.to },
        Step::AwaitPods { made_by: request.to, pods, timeout_s: request.agent_timeout_s },
    ]
}

/// The step that every switch ends with: no boot needs looking after any more.
pub fn epilogue(facts: &Facts) -> Option<Step> {
    boot_units(facts).map(|units| Step::DisableBootUnits { units })
}

/// The boot-time units, where there is a systemd to run them.
fn boot_units(facts: &Facts) -> Option<Vec<String>> {
    (!facts.units.is_empty()).then(|| BOOT_UNITS.map(str::to_owned).to_vec())
}

/// Whether eviction moves this pod elsewhere: DaemonSet pods and static pods stay, host-network pods need no move.
pub fn moves(pod: &Pod) -> bool {
    !pod.mirror && !pod.host_network && pod.controller.as_ref().is_none_or(|(kind, _)| kind != "DaemonSet")
}

/// Whether this pod stays on the node and gets a new sandbox.
pub fn stays(pod: &Pod) -> bool {
    !pod.host_network && !moves(pod) && !pod.has_ended()
}

/// Pods that stay on the node and get a new sandbox.
pub fn staying(cluster: &ClusterView) -> Vec<String> {
    let mut pods: Vec<String> = cluster.pods.iter().filter(|p| stays(p)).map(Pod::full_name).collect();
    pods.sort_unstable();
    pods
}

/// Those of them that have their network now. One that is broken already proves nothing about the switch.
fn connected(facts: &Facts, cluster: &ClusterView) -> Vec<String> {
    let ready: Vec<String> = attachments::live(facts).map(Sandbox::full_name).collect();
    staying(cluster).into_iter().filter(|pod| ready.contains(pod)).collect()
}

/// What will happen to whom, in sentences.
pub fn pod_notes(facts: &Facts, cluster: &ClusterView) -> Vec<String> {
    let connected = connected(facts, cluster);
    let broken = staying(cluster).into_iter().filter(|pod| !connected.contains(pod));
    let mut notes: Vec<String> =
        broken.map(|pod| format!("{pod}: has no network now; the switch does not wait for it")).collect();
    for pod in &cluster.pods {
        let name = pod.full_name();
        if pod.host_network || pod.has_ended() {
            continue;
        }
        if pod.mirror {
            notes.push(format!("{name}: static pod; its sandbox is rebuilt here, with a new address"));
        } else if !moves(pod) {
            notes.push(format!("{name}: DaemonSet pod; its sandbox is rebuilt here, with a new address"));
        } else if pod.controller.is_none() {
            notes.push(format!("{name}: no controller will re-create it elsewhere; it is gone after eviction"));
        } else if pod.local_storage {
            notes.push(format!("{name}: evicted; its emptyDir data is lost"));
        }
    }
    notes.sort_unstable();
    notes
}

/// A path below a directory, as text.
pub fn join(dir: &str, name: &str) -> String {
    Path::new(dir).join(name).display().to_string()
}
