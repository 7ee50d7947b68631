//! Looking at a node: every adapter asked once, read-only, into one [`Facts`].
//!
//! A part that cannot be observed is named in `unobserved` and never fails the whole: what is known is shown even where the
//! API server or the runtime is dead. Parts that wait for others (the API server, the runtime, the packet filter's tools) are
//! asked at the same time.

use std::collections::BTreeMap;
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::adopt::{PodNetwork, read};
use crate::facts::{ClusterView, FACTS_VERSION, Facts, Files, Firewall, Process, Runs, Runtime, Sandbox, Shim, Unit};
use crate::host::cri::Cri;
use crate::host::kube::Kube;
use crate::host::{Host, files, ipset, iptables, machine, netlink, nft, process, sysctl, systemd};
use crate::plan::PACKAGED_SHIM;
use crate::run::{Folders, Lock};

mod cni;
mod peers;
mod shim;
mod surroundings;
mod traces;

pub use cni::{CniDirectories, directories, subnet_env};
pub use peers::peers;
pub use shim::{backends, is_the_shims, network_name, shim_view};

/// Units whose state matters here.
const UNITS: [&str; 8] = [
    "kubelet.service",
    "containerd.service",
    "crio.service",
    "nodectl-boot.service",
    "nodectl-settle.service",
    "NetworkManager.service",
    "systemd-networkd.service",
    "fapolicyd.service",
];
/// Sysctls that matter here.
const SYSCTLS: [&str; 3] = ["net.ipv4.ip_forward", "net.ipv4.conf.all.rp_filter", "net.ipv4.conf.default.rp_filter"];
/// Processes that matter here.
const PROCESSES: [&str; 14] = [
    "flanneld",
    "calico-node",
    "calico-felix",
    "bird",
    "bird6",
    "confd",
    "kubelet",
    "containerd",
    "k3s",
    "k3s-agent",
    "k3s-server",
    "rke2",
    "kubelite",
    "kube-proxy",
];
/// How long an API server that does not answer is waited for.
const API_PATIENCE: Duration = Duration::from_secs(5);
/// The same for a runtime that hangs, for each of its answers.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(10);

/// All that can be seen of this node. Takes milliseconds, but for an API server that does not answer.
pub fn node(host: &Host) -> Facts {
    std::thread::scope(|scope| {
        let cluster = scope.spawn(|| cluster(host));
        let firewall = scope.spawn(firewall);
        let cni = scope.spawn(|| cni_parts(host));
        let units = scope.spawn(units);
        let mut seen = Seen::default();
        let network = seen.part("network", netlink::observe());
        let processes = seen.part("processes", processes());
        let runs = all_runs(host, &mut seen);
        let (dirs, runtime, files, shim) = join(cni).unwrap_or_else(|e| {
            let usual = cni::directories(host, None);
            (usual, Err(e), Err(anyhow!("the runtime's part was lost")), Err(anyhow!("the runtime's part was lost")))
        });
        let units = seen.part("units", join(units).flatten());
        Facts {
            schema_version: FACTS_VERSION,
            observed_at: crate::clock::unix_seconds(),
            machine: seen.part("machine", machine::observe(&cni::watched(host, &dirs))),
            network,
            firewall: seen.firewall(join(firewall)),
            sysctls: SYSCTLS.iter().filter_map(|name| Some(((*name).to_owned(), sysctl::read(name).ok()??))).collect(),
            processes,
            surroundings: seen.part("surroundings", surroundings::observe(host, &dirs, &units)),
            units,
            runtime: seen.optional("runtime", runtime),
            cluster: seen.optional("cluster", join(cluster).flatten()),
            // The package is there or not, whatever the state is.
            shim: Shim { packaged: files::exists(&host.path(PACKAGED_SHIM)), ..seen.part("shim", shim) },
            files: seen.part("files", files),
            runs,
            plumbing: BTreeMap::new(),
            traces: None,
            unobserved: seen.failed,
        }
    })
}

/// Adds what strategy in-place must know: how each pod is wired, and how this kernel renames devices.
pub fn plumbing(host: &Host, facts: &mut Facts) {
    let pods = facts.runtime.iter().flat_map(|r| &r.sandboxes).filter(|s| s.ready && !s.host_network);
    let look = |s: &Sandbox| -> Result<PodNetwork, String> {
        let netns = s.netns.as_ref().ok_or("the runtime does not say where its network is")?;
        read::read(&s.full_name(), &host.path(netns), "eth0").map_err(|error| format!("{error:#}"))?
    };
    facts.plumbing = pods.map(|sandbox| (sandbox.id.clone(), look(sandbox))).collect();
    match netlink::rename_live_supported() {
        Ok(live) => facts.machine.rename_live = Some(live),
        Err(error) => drop(facts.unobserved.insert("renaming".into(), format!("{error:#}"))),
    }
}

/// The same, and what else CNIs leave on a node: for those who look for leftovers.
pub fn closely(host: &Host) -> Facts {
    let mut facts = node(host);
    let (traces, failed) = traces::observe(host, &facts);
    facts.unobserved.extend(failed);
    facts.traces = Some(Box::new(traces));
    facts
}

/// What could not be observed.
#[derive(Default)]
struct Seen {
    failed: BTreeMap<String, String>,
}

impl Seen {
    fn part<T: Default>(&mut self, name: &str, found: Result<T>) -> T {
        self.optional(name, found).unwrap_or_default()
    }

    fn optional<T>(&mut self, name: &str, found: Result<T>) -> Option<T> {
        found.map_err(|error| self.failed.insert(name.to_owned(), format!("{error:#}"))).ok()
    }

    /// One tool that is missing hides its own part alone.
    fn firewall(&mut self, parts: Result<FirewallParts>) -> Firewall {
        let Some((iptables, readable, tables, sets)) = self.optional("firewall", parts) else {
            return Firewall::default();
        };
        self.part("tables of iptables", readable);
        Firewall {
            nft_tables: self.part("nft tables", tables),
            sets: self.part("ipsets", sets),
            ..self.part("iptables", iptables)
        }
    }
}

type FirewallParts = (Result<Firewall>, Result<()>, Result<Vec<String>>, Result<Vec<String>>);

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("the thread that looked at it was lost"))
}

fn firewall() -> FirewallParts {
    (iptables::observe(), iptables::readable(), nft::tables(), ipset::names())
}

fn processes() -> Result<Vec<Process>> {
    let mut processes = process::scan()?;
    processes.retain(|p| PROCESSES.contains(&p.name.as_str()));
    Ok(processes)
}

fn units() -> Result<BTreeMap<String, Unit>> {
    let mut units = BTreeMap::new();
    for name in UNITS {
        if let Some(unit) = systemd::unit(name)? {
            units.insert(name.to_owned(), unit);
        }
    }
    Ok(units)
}

/// The runtime comes first: it knows the directories.
fn cni_parts(host: &Host) -> (CniDirectories, Result<Runtime>, Result<Files>, Result<Shim>) {
    let (runtime, told) = match Cri::detect(host).and_then(|cri| cri.patience(RUNTIME_PATIENCE).observe()) {
        Ok((runtime, told)) => (Ok(runtime), Some(told)),
        Err(error) => (Err(error), None),
    };
    let dirs = cni::directories(host, told.as_ref());
    let (files, shim) = (cni::cni_files(host, &dirs), cni::shim(host, &dirs));
    (dirs, runtime, files, shim)
}

fn cluster(host: &Host) -> Result<ClusterView> {
    Ok(Kube::for_node(host)?.patience(API_PATIENCE).cluster_view()?)
}

fn runs(host: &Host) -> Result<Runs> {
    let open = Folders::at(host).open_run()?;
    let mut closed: Vec<String> = files::list(&host.path("/var/lib/nodectl/journal"))?
        .iter()
        .filter_map(|name| name.strip_suffix(".jsonl"))
        .filter(|run| open.as_deref() != Some(run))
        .map(str::to_owned)
        .collect();
    closed.sort_unstable();
    Ok(Runs { open, closed, ..Runs::default() })
}

fn all_runs(host: &Host, seen: &mut Seen) -> Runs {
    let mut runs = seen.part("runs", runs(host));
    if let Some(run) = &runs.open {
        let log = crate::journal::read(&Folders::at(host).journal(run));
        runs.position = seen.optional("the open run's journal", log).and_then(|log| log.position());
    }
    runs.worker = seen.optional("nodectl's lock", Lock::holder(host)).flatten();
    runs.worker = runs.worker.filter(|pid| *pid != std::process::id());
    runs
}
