//! What the CNIs have on this node's disk, and where this node's runtime looks for it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use cni_spec::conflist::TYPE;
use serde_json::Value;

use crate::cni::Cni;
use crate::facts::{Files, Shim};
use crate::host::cri::CniStatus;
use crate::host::{Host, files};
use crate::ownership;
use crate::plan::{PACKAGED_SHIM, SHIM_CONFLIST, SHIM_STATE_DIR};
use crate::variant;

/// Suffixes of the files that runtimes read as network configurations.
const SUFFIXES: [&str; 3] = [".conf", ".conflist", ".json"];

/// Configurations of runtimes, by distribution. Where several lie about, the runtime itself is asked before them.
const CONFIGURATIONS: [&str; 6] = [
    "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
    "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
    "/var/snap/microk8s/current/args/containerd.toml",
    "/etc/k0s/containerd.toml",
    "/etc/containerd/config.toml",
    "/etc/crio/crio.conf",
];

/// Directories of files that extend those.
const DROP_INS: [&str; 2] = ["/etc/containerd/conf.d", "/etc/crio/crio.conf.d"];

/// Where this node's runtime has its CNI files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniDirectories {
    /// Configurations.
    pub conf_dir: String,
    /// Plugin binaries.
    pub bin_dir: String,
}

/// The directories that the operator named, else those that the runtime itself names, else those in its configuration, else the usual ones.
pub fn directories(host: &Host, told: Option<&CniStatus>) -> CniDirectories {
    let texts = configurations(host);
    let configured = |keys: &[&str]| {
        texts.iter().find_map(|text| keys.iter().map(|key| values(text, key)).find(|found| !found.is_empty()))
    };
    let named = host.overrides();
    let conf_dir = named
        .conf_dir
        .clone()
        .or_else(|| told?.conf_dir.clone())
        .or_else(|| configured(&["conf_dir", "network_dir"])?.into_iter().next())
        .unwrap_or_else(|| "/etc/cni/net.d".into());
    let bin_dirs = told
        .map(|t| t.bin_dirs.clone())
        .filter(|dirs| !dirs.is_empty())
        .or_else(|| configured(&["bin_dirs", "bin_dir", "plugin_dirs", "plugin_dir"]))
        .unwrap_or_default();
    // A plugin is taken from the first directory that has it, so the first one is where one of ours is found.
    let there = bin_dirs.iter().find(|dir| files::exists(&host.path(dir))).or(bin_dirs.first());
    let bin_dir = named.bin_dir.clone().or(there.cloned()).unwrap_or_else(|| "/opt/cni/bin".into());
    CniDirectories { conf_dir: plain(&conf_dir), bin_dir: plain(&bin_dir) }
}

/// The texts of the first runtime's configuration that is there, drop-ins first, since they win.
fn configurations(host: &Host) -> Vec<String> {
    let read = |path: &Path| files::read_found_text(path).ok().flatten();
    let mut texts = Vec::new();
    for directory in DROP_INS {
        let directory = host.path(directory);
        let names = files::list(&directory).unwrap_or_default();
        texts.extend(names.iter().rev().filter_map(|name| read(&directory.join(name))));
    }
    texts.extend(CONFIGURATIONS.iter().find_map(|path| read(&host.path(path))));
    texts
}

/// The values of `key = "value"` or `key = ["value", ...]` in TOML. These keys stand once in a runtime's configuration, and a
/// parser for the whole language would be of no more use.
fn values(text: &str, key: &str) -> Vec<String> {
    let mut lines = text.lines().map(str::trim);
    let Some(value) = lines.by_ref().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    }) else {
        return Vec::new();
    };
    let whole = match value.starts_with('[') && !value.contains(']') {
        true => lines.take_while(|line| !line.starts_with(']')).fold(value, |all, line| all + line),
        false => value,
    };
    // Between quotes of either kind stands every second piece.
    let quote = if whole.contains('"') { '"' } else { '\'' };
    whole.split(quote).skip(1).step_by(2).filter(|v| !v.is_empty()).map(str::to_owned).collect()
}

/// Without a slash at the end, and with the variables that snaps put into their configuration.
fn plain(directory: &str) -> String {
    let directory = directory.replace("${SNAP_DATA}", "/var/snap/microk8s/current");
    let trimmed = directory.trim_end_matches('/');
    if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() }
}

/// Configurations, binaries and what else the CNIs keep.
pub fn cni_files(host: &Host, dirs: &CniDirectories) -> Result<Files> {
    let conf_dir = host.path(&dirs.conf_dir);
    let mut conf_names = files::list(&conf_dir)?;
    // Runtimes pass over directories.
    conf_names.retain(|name| SUFFIXES.iter().any(|s| name.ends_with(s)) && !conf_dir.join(name).is_dir());
    let mut confs = BTreeMap::new();
    for name in &conf_names {
        let path = conf_dir.join(name);
        let text = files::read_found(&path)?.unwrap_or_default();
        confs.insert(name.clone(), serde_json::from_slice(&text).unwrap_or(Value::Null));
    }
    Ok(Files {
        present: present(host, dirs, &confs),
        subnet_env: subnet_env(host)?,
        binaries: binaries(&host.path(&dirs.bin_dir))?,
        conf_dir: dirs.conf_dir.clone(),
        bin_dir: dirs.bin_dir.clone(),
        conf_names,
        confs,
    })
}

/// The variables of the file by which flanneld tells its plugin of the network; none where it has not written it.
pub fn subnet_env(host: &Host) -> Result<BTreeMap<String, String>> {
    let path = host.path("/run/flannel/subnet.env");
    if path.is_dir() {
        // kubelet makes one where a pod's hostPath names a file that flanneld has not written yet.
        return Ok(BTreeMap::new());
    }
    let bytes = files::read_found(&path)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
}

/// Sizes of the plugins. Their hashes would take a third of a second, and no decision needs them.
fn binaries(directory: &Path) -> Result<BTreeMap<String, u64>> {
    let mut sizes = BTreeMap::new();
    for name in files::list(directory)? {
        if let Some(size) = files::size(&directory.join(&name))? {
            sizes.insert(name, size);
        }
    }
    Ok(sizes)
}

/// Which of the paths that the CNIs are known to leave exist; their conflists go by any name that their plugins are in.
fn present(host: &Host, dirs: &CniDirectories, confs: &BTreeMap<String, Value>) -> Vec<String> {
    let mut present: Vec<String> = Vec::new();
    for (cni, plugin, usual) in
        [(Cni::Flannel, "flannel", "10-flannel.conflist"), (Cni::Calico, "calico", "10-calico.conflist")]
    {
        let mut names: Vec<(&str, &str)> = vec![(usual, if cni == Cni::Flannel { "cbr0" } else { "k8s-pod-network" })];
        for (file, conf) in confs.iter().filter(|(file, _)| file.as_str() != SHIM_CONFLIST) {
            if cni == Cni::Flannel && ownership::known::is_canal(conf) {
                names.push((file, conf["name"].as_str().unwrap_or_default()));
            }
            let types = conf["plugins"].as_array().into_iter().flatten().filter_map(|p| p["type"].as_str());
            if types.into_iter().any(|t| t == plugin) {
                names.push((file, conf["name"].as_str().unwrap_or_default()));
            }
        }
        if cni == Cni::Flannel {
            // host-local's store outlives Canal's configuration.
            names.push(("10-canal.conflist", "k8s-pod-network"));
        }
        for (file, network) in names {
            let paths = ownership::files::paths(cni, &dirs.conf_dir, &dirs.bin_dir, file, network);
            present.extend(paths.into_iter().filter(|path| files::exists(&host.path(path))));
        }
    }
    present.sort_unstable();
    present.dedup();
    present
}

/// The shim's state and records.
pub fn shim(host: &Host, dirs: &CniDirectories) -> Result<Shim> {
    // The conflist is what puts the shim in front; a state without it is a leftover, or the shim's first step.
    if !files::exists(&host.path(Path::new(&dirs.conf_dir).join(SHIM_CONFLIST))) {
        return Ok(Shim::default());
    }
    let paths = cni_store::Paths::under(host.root());
    let state = cni_store::state::State::load(&paths)?;
    let mode = state.map(|s| variant::name(s.mode));
    let (records, torn) = cni_store::record::Record::list(&paths)?;
    let mut attachments: BTreeMap<Cni, Vec<String>> = BTreeMap::new();
    for record in records {
        let id = format!("{}-{}", record.container_id, record.ifname);
        attachments.entry(record.backend.into()).or_default().push(id);
    }
    let (pending, torn_pending) = cni_store::pending::Pending::list(&paths)?;
    let mut pending: Vec<String> = pending.into_iter().map(|p| format!("{}-{}", p.container_id, p.ifname)).collect();
    pending.extend(torn.iter().map(|path| format!("unreadable record {}", path.display())));
    pending.extend(torn_pending.iter().map(|path| format!("unreadable DEL {}", path.display())));
    let outdated = files::differ(&host.path(Path::new(&dirs.bin_dir).join(TYPE)), &host.path(PACKAGED_SHIM))?;
    Ok(Shim { mode, attachments, pending, outdated, ..Shim::default() })
}

/// Directories that a run writes to, by the name to report each under.
pub fn watched(host: &Host, dirs: &CniDirectories) -> Vec<(String, std::path::PathBuf)> {
    let names = [dirs.conf_dir.as_str(), dirs.bin_dir.as_str(), "/var/lib/nodectl", SHIM_STATE_DIR];
    names.iter().map(|name| ((*name).to_owned(), host.path(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Overrides;

    #[test]
    fn runtimes_name_their_directories_in_many_ways() {
        let two = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\n  bin_dir = \"/usr/lib/cni\"\n  conf_dir=\"/etc/x\" # c\n";
        assert_eq!(values(two, "bin_dir"), ["/usr/lib/cni"]);
        assert_eq!(values(two, "conf_dir"), ["/etc/x"]);
        assert!(values(two, "dir").is_empty());
        let three = "version = 3\nbin_dir = ''\nbin_dirs = ['/opt/cni/bin', '/usr/libexec/cni']\n";
        assert_eq!(values(three, "bin_dirs"), ["/opt/cni/bin", "/usr/libexec/cni"]);
        assert!(values(three, "bin_dir").is_empty());
        let crio = "[crio.network]\nplugin_dirs = [\n\t\"/a/\",\n\t\"/b\",\n]\nnetwork_dir = \"/etc/cni/net.d/\"\n";
        assert_eq!(values(crio, "plugin_dirs"), ["/a/", "/b"]);
        assert_eq!(plain("/etc/cni/net.d/"), "/etc/cni/net.d");
        assert_eq!(plain("${SNAP_DATA}/opt/cni/bin"), "/var/snap/microk8s/current/opt/cni/bin");
    }

    #[test]
    fn the_operator_is_believed_first_then_the_runtime_itself() {
        let root = tempfile::tempdir().expect("a directory");
        let host = Host::new(root.path());
        let usual = CniDirectories { conf_dir: "/etc/cni/net.d".into(), bin_dir: "/opt/cni/bin".into() };
        assert_eq!(directories(&host, None), usual);
        std::fs::create_dir_all(root.path().join("etc/containerd/conf.d")).expect("a directory");
        std::fs::create_dir_all(root.path().join("usr/libexec/cni")).expect("a directory");
        std::fs::write(root.path().join("etc/containerd/config.toml"), "conf_dir = '/etc/one'\n").expect("a file");
        assert_eq!(directories(&host, None).conf_dir, "/etc/one");
        let drop_in = "conf_dir = '/etc/two'\nbin_dirs = ['/opt/none', '/usr/libexec/cni']\n";
        std::fs::write(root.path().join("etc/containerd/conf.d/cni.toml"), drop_in).expect("a file");
        let drop_in = CniDirectories { conf_dir: "/etc/two".into(), bin_dir: "/usr/libexec/cni".into() };
        assert_eq!(directories(&host, None), drop_in);
        let told = CniStatus { conf_dir: Some("/etc/three".into()), ..CniStatus::default() };
        assert_eq!(directories(&host, Some(&told)).conf_dir, "/etc/three");
        let overrides = Overrides { conf_dir: Some("/etc/four/".into()), ..Overrides::default() };
        let named = directories(&host.with_overrides(overrides), Some(&told));
        assert_eq!((named.conf_dir.as_str(), named.bin_dir.as_str()), ("/etc/four", "/usr/libexec/cni"));
    }
}
