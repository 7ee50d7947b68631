//! Looking at a node: every adapter asked once, read-only, into one [`Facts`].
//!
//! A part that cannot be observed is named in `unobserved` and never fails the whole: what is known is shown even where the
//! API server or the runtime is dead.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use crate::cni::Cni;
use crate::facts::{FACTS_VERSION, Facts, Files, Runs, Shim};
use crate::host::cri::Cri;
use crate::host::kube::Kube;
use crate::host::{Host, files, ipset, iptables, machine, netlink, nft, process, sysctl, systemd};
use crate::ownership;
use crate::plan::{PACKAGED_SHIM, SHIM_CONFLIST, SHIM_STATE_DIR};

/// Units whose state matters here.
const UNITS: [&str; 5] =
    ["kubelet.service", "containerd.service", "crio.service", "nodectl-boot.service", "nodectl-settle.service"];
/// Sysctls that matter here.
const SYSCTLS: [&str; 3] = ["net.ipv4.ip_forward", "net.ipv4.conf.all.rp_filter", "net.ipv4.conf.default.rp_filter"];
/// Processes that matter here.
const PROCESSES: [&str; 9] =
    ["flanneld", "calico-node", "kubelet", "containerd", "k3s", "k3s-agent", "k3s-server", "rke2", "kube-proxy"];

/// Where this node's runtime has its CNI files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniDirectories {
    /// Configurations.
    pub conf_dir: String,
    /// Plugin binaries.
    pub bin_dir: String,
}

/// All that can be seen of this node. Takes milliseconds, but for an API server that does not answer.
pub fn node(host: &Host) -> Facts {
    let mut seen = Seen::default();
    let dirs = cni_directories(host);
    let processes = seen.part("processes", process::scan());
    Facts {
        schema_version: FACTS_VERSION,
        observed_at: crate::clock::unix_seconds(),
        machine: seen.part("machine", machine::observe(&watched(host, &dirs))),
        network: seen.part("network", netlink::observe()),
        firewall: seen.part("firewall", firewall()),
        sysctls: SYSCTLS.iter().filter_map(|name| Some(((*name).to_owned(), sysctl::read(name).ok()??))).collect(),
        processes: processes.into_iter().filter(|p| PROCESSES.contains(&p.name.as_str())).collect(),
        units: seen.part("units", units()),
        runtime: seen.optional("runtime", Cri::detect(host).and_then(|cri| cri.observe())),
        cluster: seen.optional("cluster", cluster(host)),
        shim: seen.part("shim", shim(host, &dirs)),
        files: seen.part("files", cni_files(host, dirs)),
        runs: seen.part("runs", runs(host)),
        unobserved: seen.failed,
    }
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
}

/// Directories that a run writes to.
fn watched(host: &Host, dirs: &CniDirectories) -> Vec<(String, std::path::PathBuf)> {
    let names = [dirs.conf_dir.as_str(), dirs.bin_dir.as_str(), "/var/lib/nodectl", SHIM_STATE_DIR];
    names.iter().map(|name| ((*name).to_owned(), host.path(name))).collect()
}

fn firewall() -> Result<crate::facts::Firewall> {
    let saved = iptables::saved()?;
    Ok(crate::facts::Firewall {
        active: iptables::active(&saved),
        nft_tables: nft::tables()?,
        sets: ipset::names()?,
        saved,
    })
}

fn units() -> Result<BTreeMap<String, crate::facts::Unit>> {
    let mut units = BTreeMap::new();
    for name in UNITS {
        if let Some(unit) = systemd::unit(name)? {
            units.insert(name.to_owned(), unit);
        }
    }
    Ok(units)
}

fn cluster(host: &Host) -> Result<crate::facts::ClusterView> {
    let kube = Kube::for_node(host)?.patience(std::time::Duration::from_secs(5));
    Ok(kube.cluster_view()?)
}

/// The directories that the runtime's configuration names, else those of the distribution, else the usual ones.
pub fn cni_directories(host: &Host) -> CniDirectories {
    let usual = CniDirectories { conf_dir: "/etc/cni/net.d".into(), bin_dir: "/opt/cni/bin".into() };
    let k3s = "/var/lib/rancher/k3s/agent/etc/cni/net.d";
    if files::exists(&host.path(k3s)) {
        return CniDirectories { conf_dir: k3s.into(), bin_dir: "/var/lib/rancher/k3s/data/cni".into() };
    }
    let Ok(Some(text)) = files::read_text_optional(&host.path("/etc/containerd/config.toml")) else { return usual };
    CniDirectories {
        conf_dir: toml_string(&text, "conf_dir").unwrap_or(usual.conf_dir),
        bin_dir: toml_string(&text, "bin_dir").unwrap_or(usual.bin_dir),
    }
}

/// The value of `key = "value"`, the first of its kind: these two keys stand once in containerd's configuration.
fn toml_string(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (name, value) = line.trim().split_once('=')?;
        let value = value.trim().strip_prefix('"')?.split_once('"')?.0;
        (name.trim() == key && !value.is_empty()).then(|| value.to_owned())
    })
}

fn cni_files(host: &Host, dirs: CniDirectories) -> Result<Files> {
    let conf_dir = host.path(&dirs.conf_dir);
    let suffixes = [".conf", ".conflist", ".json"];
    let mut conf_names = files::list(&conf_dir)?;
    conf_names.retain(|name| suffixes.iter().any(|s| name.ends_with(s)));
    conf_names.sort_unstable();
    let mut confs = BTreeMap::new();
    for name in &conf_names {
        let text = files::read_text_optional(&conf_dir.join(name))?.unwrap_or_default();
        confs.insert(name.clone(), serde_json::from_str(&text).unwrap_or(Value::Null));
    }
    let mut binaries = BTreeMap::new();
    for name in files::list(&host.path(&dirs.bin_dir))? {
        if let Ok(Some(hash)) = files::sha256(&host.path(Path::new(&dirs.bin_dir).join(&name))) {
            binaries.insert(name, hash);
        }
    }
    let env = files::read_text_optional(&host.path("/run/flannel/subnet.env"))?.unwrap_or_default();
    let pairs = env.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned()));
    Ok(Files {
        present: present(host, &dirs, &confs),
        subnet_env: pairs.collect(),
        conf_dir: dirs.conf_dir,
        bin_dir: dirs.bin_dir,
        conf_names,
        confs,
        binaries,
    })
}

/// Which of the paths that the CNIs are known to leave exist; their conflists go by any name that their plugins are in.
fn present(host: &Host, dirs: &CniDirectories, confs: &BTreeMap<String, Value>) -> Vec<String> {
    let mut present: Vec<String> = Vec::new();
    for (cni, plugin, usual) in
        [(Cni::Flannel, "flannel", "10-flannel.conflist"), (Cni::Calico, "calico", "10-calico.conflist")]
    {
        let mut names: Vec<(&str, &str)> = vec![(usual, if cni == Cni::Flannel { "cbr0" } else { "k8s-pod-network" })];
        for (file, conf) in confs.iter().filter(|(file, _)| file.as_str() != SHIM_CONFLIST) {
            let types = conf["plugins"].as_array().into_iter().flatten().filter_map(|p| p["type"].as_str());
            if types.into_iter().any(|t| t == plugin) {
                names.push((file, conf["name"].as_str().unwrap_or_default()));
            }
        }
        for (file, network) in names {
            let paths = ownership::paths(cni, &dirs.conf_dir, &dirs.bin_dir, file, network);
            present.extend(paths.into_iter().filter(|path| files::exists(&host.path(path))));
        }
    }
    present.sort_unstable();
    present.dedup();
    present
}

fn shim(host: &Host, dirs: &CniDirectories) -> Result<Shim> {
    let packaged = files::exists(&host.path(PACKAGED_SHIM));
    // The conflist is what puts the shim in front; a state without it is a leftover, or the shim's first step.
    if !files::exists(&host.path(Path::new(&dirs.conf_dir).join(SHIM_CONFLIST))) {
        return Ok(Shim { packaged, ..Shim::default() });
    }
    let paths = cni_shim::Paths::under(host.root());
    let state = cni_shim::state::State::load(&paths)?;
    let mode = state.and_then(|s| serde_json::to_value(s.mode).ok()).and_then(|m| m.as_str().map(str::to_owned));
    let (records, torn) = cni_shim::record::Record::list(&paths)?;
    let mut attachments: BTreeMap<Cni, Vec<String>> = BTreeMap::new();
    for record in records {
        let cni = match record.backend {
            cni_shim::state::Backend::Flannel => Cni::Flannel,
            cni_shim::state::Backend::Calico => Cni::Calico,
        };
        attachments.entry(cni).or_default().push(format!("{}-{}", record.container_id, record.ifname));
    }
    let pending = cni_shim::pending::Pending::list(&paths)?;
    let mut pending: Vec<String> = pending.into_iter().map(|p| format!("{}-{}", p.container_id, p.ifname)).collect();
    pending.extend(torn.iter().map(|path| format!("unreadable record {}", path.display())));
    Ok(Shim { mode, attachments, pending, packaged })
}

fn runs(host: &Host) -> Result<Runs> {
    let base = host.path("/var/lib/nodectl");
    let open = files::read_text_optional(&base.join("open"))?.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
    let mut closed: Vec<String> = files::list(&base.join("journal"))?
        .iter()
        .filter_map(|name| name.strip_suffix(".jsonl"))
        .filter(|run| open.as_deref() != Some(run))
        .map(str::to_owned)
        .collect();
    closed.sort_unstable();
    Ok(Runs { open, closed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerd_names_its_directories() {
        let text = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\n  bin_dir = \"/usr/lib/cni\"\n  conf_dir=\"/etc/x\" # c\n";
        assert_eq!(toml_string(text, "bin_dir").as_deref(), Some("/usr/lib/cni"));
        assert_eq!(toml_string(text, "conf_dir").as_deref(), Some("/etc/x"));
        assert_eq!(toml_string(text, "dir"), None);
    }
}
