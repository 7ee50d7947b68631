//! Files and directories: by path, and for configurations by what they say.

use serde_json::Value;

use super::known::{Known, main_plugin, plugin};
use super::{Group, Inventory};
use crate::cni::Cni;
use crate::facts::{Facts, Traces};
use crate::step::CleanScope;

/// Where runtimes and distributions keep configurations, besides the directory that this node's runtime reads.
pub const CONF_DIRS: [&str; 2] = ["/etc/cni/net.d", "/var/lib/rancher/k3s/agent/etc/cni/net.d"];

/// Where CNIs' installers put plugins, besides the directory that this node's runtime uses.
const BIN_DIRS: [&str; 1] = ["/opt/cni/bin"];

/// Names that a CNI's own installer gives in the configuration directory. A name may end with `*`.
const CONF_NAMES: [(Cni, &str); 6] = [
    (Cni::Flannel, "10-flannel.conflist"),
    (Cni::Flannel, "10-flannel.conf"),
    (Cni::Flannel, ".10-flannel.conflist.tmp*"),
    (Cni::Calico, "10-calico.conflist"),
    (Cni::Calico, "calico-kubeconfig"),
    (Cni::Calico, "calico-tls"),
];

/// Plugins that are of no use to anybody else (`host-local`, `portmap`, `bridge` and the like stay), and what an installer that
/// was interrupted leaves beside any of those that it brings.
const BINARIES: [(Cni, &str); 11] = [
    (Cni::Flannel, "flannel"),
    (Cni::Calico, "calico"),
    (Cni::Calico, "calico-ipam"),
    (Cni::Calico, "calico.tmp"),
    (Cni::Calico, "calico-ipam.tmp"),
    (Cni::Calico, "bandwidth.tmp"),
    (Cni::Calico, "flannel.tmp"),
    (Cni::Calico, "host-local.tmp"),
    (Cni::Calico, "loopback.tmp"),
    (Cni::Calico, "portmap.tmp"),
    (Cni::Calico, "tuning.tmp"),
];

/// Everything else that has a place of its own.
const PATHS: [(Cni, &str, &str); 13] = [
    (Cni::Flannel, "/run", "flannel"),
    (Cni::Flannel, "/var/run", "flannel"),
    (Cni::Flannel, "/var/lib/cni", "flannel"),
    (Cni::Calico, "/run", "calico"),
    (Cni::Calico, "/run", "nodeagent"),
    (Cni::Calico, "/var/run", "calico"),
    (Cni::Calico, "/var/run", "nodeagent"),
    (Cni::Calico, "/var/lib", "calico"),
    (Cni::Calico, "/var/log", "calico"),
    (Cni::Calico, "/etc/calico", "csi"),
    (Cni::Calico, "/var/lib/kubelet/plugins", "csi.tigera.io"),
    (Cni::Calico, "/var/lib/kubelet/plugins_registry", "csi.tigera.io-reg.sock"),
    (Cni::Calico, "/usr/libexec/kubernetes/kubelet-plugins/volume/exec", "nodeagent~uds"),
];

/// Where flanneld writes subnet.env. kubelet makes the folder for flannel's pod and never takes it away.
pub const FLANNEL_RUN: &str = "/run/flannel";

/// host-local's stores, by network.
pub const LEASES: &str = "/var/lib/cni/networks";
/// Results that runtimes cache, by network and container.
pub const RESULTS: [&str; 2] = ["/var/lib/cni/results", "/var/lib/cni/cache/results"];
/// NetworkManager's drop-ins.
pub const SNIPPETS: &str = "/etc/NetworkManager/conf.d";

/// Directories to look into.
pub fn directories(conf_dir: &str, bin_dir: &str) -> Vec<String> {
    let mut all: Vec<String> = vec![conf_dir.into(), bin_dir.into(), LEASES.into(), SNIPPETS.into()];
    all.extend(CONF_DIRS.iter().chain(&BIN_DIRS).chain(&RESULTS).map(|dir| (*dir).to_owned()));
    all.extend(PATHS.iter().map(|(_, dir, _)| (*dir).to_owned()));
    all.extend(PATHS.iter().map(|(_, dir, name)| format!("{dir}/{name}")));
    all.sort_unstable();
    all.dedup();
    all
}

/// Paths that a CNI leaves behind, as far as a switch cares.
pub fn paths(cni: Cni, conf_dir: &str, bin_dir: &str, conflist: &str, network: &str) -> Vec<String> {
    match cni {
        Cni::Flannel => vec![
            format!("{conf_dir}/{conflist}"),
            "/run/flannel/subnet.env".into(),
            "/var/lib/cni/flannel".into(),
            format!("{LEASES}/{network}"),
        ],
        Cni::Calico => {
            let mut paths = vec![
                format!("{conf_dir}/{conflist}"),
                format!("{conf_dir}/calico-kubeconfig"),
                format!("{conf_dir}/calico-tls"),
                "/var/lib/calico".into(),
                "/run/calico".into(),
            ];
            let own = BINARIES.iter().filter(|(owner, _)| *owner == Cni::Calico);
            paths.extend(own.map(|(_, name)| format!("{bin_dir}/{name}")));
            paths
        }
    }
}

/// Those of them that exist.
pub fn claim_of_switch(facts: &Facts, cni: Cni, scope: &CleanScope, inventory: &mut Inventory) {
    let mut all = paths(cni, &scope.conf_dir, &scope.bin_dir, &scope.conflist, &scope.network);
    if scope.canal && cni == Cni::Calico {
        // Plugins, their credentials and what they keep are Canal's as well.
        let conflist = format!("{}/{}", scope.conf_dir, scope.conflist);
        all.retain(|path| *path == conflist);
    }
    for path in all.into_iter().filter(|path| facts.files.present.contains(path)) {
        file(path, "a path of the CNI's own", inventory);
    }
}

/// All that goes, the configurations first: from then on no runtime calls a plugin whose network is being taken away.
pub fn claim(facts: &Facts, cni: Cni, known: &Known, inventory: &mut Inventory) {
    let Some(traces) = &facts.traces else { return };
    let before = inventory.image.files.len();
    configurations(facts, traces, cni, inventory);
    for (_, dir, name) in PATHS.iter().filter(|(owner, _, _)| *owner == cni) {
        // Where /var/run is a link to /run, its listing is left out.
        let path = format!("{dir}/{name}");
        if has(traces, dir, name) && is_empty_mount(traces, &path) {
            inventory.stays(&path, "a mount point cannot be removed; nothing is in it");
        } else if has(traces, dir, name) {
            file(path, "a path of the CNI's own", inventory);
        }
    }
    stores(traces, known, inventory);
    snippets(traces, cni, inventory);
    binaries(facts, traces, cni, inventory);
    for path in inventory.image.files.split_off(before) {
        // Calico mounts a cgroup file system, and where it finds no bpf file system one of its own.
        for mount in traces.mounts.iter().filter(|m| m.starts_with(&format!("{path}/"))) {
            inventory.claim_with(Group::Files, mount.clone(), &path);
        }
        inventory.image.files.push(path);
    }
}

/// A file system of its own, without anything in it.
fn is_empty_mount(traces: &Traces, path: &str) -> bool {
    traces.mounts.iter().any(|m| m == path) && !traces.listings.contains_key(path)
}

fn configurations(facts: &Facts, traces: &Traces, cni: Cni, inventory: &mut Inventory) {
    let conf_dir = facts.files.conf_dir.as_str();
    for dir in with_usual(conf_dir, &CONF_DIRS) {
        for name in traces.listings.get(dir).into_iter().flatten() {
            let conf = facts.files.confs.get(name).filter(|_| dir == conf_dir);
            let by_name = CONF_NAMES.iter().any(|(owner, pattern)| *owner == cni && matches(pattern, name));
            let by_plugin = conf.and_then(main_plugin) == Some(plugin(cni));
            // A file of the usual name that somebody has made into something else is his.
            let other = conf.and_then(main_plugin).is_some_and(|found| found != plugin(cni) && found != "cni-shim");
            if by_plugin {
                file(format!("{dir}/{name}"), "a configuration whose first plugin is the CNI's", inventory);
            } else if by_name && !other {
                file(format!("{dir}/{name}"), "named as the CNI's installer names it", inventory);
            }
        }
    }
}

/// What host-local and the runtimes keep about this network's containers. The kinds of files that hold one container each stay
/// while that lives on another CNI.
fn stores(traces: &Traces, known: &Known, inventory: &mut Inventory) {
    for network in traces.listings.get(LEASES).into_iter().flatten().filter(|name| known.is_named(name)) {
        let store = format!("{LEASES}/{network}");
        let lives = traces
            .notes
            .iter()
            .any(|n| n.path.starts_with(&format!("{store}/")) && known.others.contains(&n.container));
        if lives {
            inventory.stays(&store, "a pod that lives on another CNI has a lease in it");
        } else {
            file(store, "host-local's store of this network", inventory);
        }
    }
    for note in &traces.notes {
        let cached = RESULTS.iter().any(|dir| note.path.starts_with(&format!("{dir}/")));
        if cached && known.is_named(&note.network) && !known.others.contains(&note.container) {
            file(note.path.clone(), "a runtime's cached result of this network", inventory);
        }
    }
}

/// A drop-in that keeps NetworkManager off this CNI's devices and says nothing else.
fn snippets(traces: &Traces, cni: Cni, inventory: &mut Inventory) {
    for (path, text) in &traces.snippets {
        if names_only(text, cni) {
            file(path.clone(), "keeps NetworkManager off this CNI's devices, and says nothing else", inventory);
        }
    }
}

/// Whether all that a drop-in says is `[keyfile] unmanaged-devices=` with devices of this CNI.
fn names_only(text: &str, cni: Cni) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    let [section, setting] = lines.as_slice() else { return false };
    let Some(devices) = setting.split_once('=').filter(|(key, _)| key.trim() == "unmanaged-devices") else {
        return false;
    };
    let mut names = devices.1.split(';').map(str::trim).filter(|name| !name.is_empty()).peekable();
    *section == "[keyfile]"
        && names.peek().is_some()
        && names
            .all(|name| name.strip_prefix("interface-name:").is_some_and(|n| super::stays::device_of(n) == Some(cni)))
}

/// flannel's binary may be Calico's installer's, or a package's.
fn binaries(facts: &Facts, traces: &Traces, cni: Cni, inventory: &mut Inventory) {
    let dirs = with_usual(&facts.files.bin_dir, &BIN_DIRS);
    let all = dirs.iter().flat_map(|dir| BINARIES.iter().map(move |(owner, name)| (*dir, *owner, *name)));
    for (dir, _, name) in all.filter(|(dir, owner, name)| *owner == cni && has(traces, dir, name)) {
        let path = format!("{dir}/{name}");
        if traces.packaged.contains(&path) {
            inventory.stays(&path, "it belongs to a package of the distribution");
        } else if cni == Cni::Flannel && has(traces, dir, "calico") {
            inventory.stays(&path, "Calico's installer brings a plugin of this name, and Calico is on this node");
        } else {
            file(path, "the CNI's own plugin", inventory);
        }
    }
}

/// This node's directory, and the usual ones besides.
fn with_usual<'d>(own: &'d str, usual: &[&'d str]) -> Vec<&'d str> {
    let mut dirs = vec![own];
    dirs.extend(usual.iter().filter(|dir| **dir != own));
    dirs
}

/// Directories of plugins to look into.
pub fn bin_dirs(own: &str) -> Vec<&str> {
    with_usual(own, &BIN_DIRS)
}

fn file(path: String, why: &str, inventory: &mut Inventory) {
    if !inventory.image.files.contains(&path) {
        inventory.claim(Group::Files, path.clone(), why);
        inventory.image.files.push(path);
    }
}

fn has(traces: &Traces, dir: &str, name: &str) -> bool {
    traces.listings.get(dir).is_some_and(|names| names.iter().any(|n| n == name))
}

/// Equal, or the same up to a `*` at the end.
fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |prefix| name.starts_with(prefix))
}

/// The parsed network names of plugins in a cached configuration.
pub fn plugin_types(conf: &Value) -> Vec<String> {
    let list = conf["plugins"].as_array().cloned().unwrap_or_else(|| vec![conf.clone()]);
    list.iter().filter_map(|p| p["type"].as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_interrupted_installer_left_is_its_own() {
        let draft = "/opt/cni/bin/portmap.tmp".to_owned();
        let scope = CleanScope {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dir: "/opt/cni/bin".into(),
            conflist: "10-calico.conflist".into(),
            network: "k8s-pod-network".into(),
            cluster_cidr: "10.244.0.0/16".parse().expect("a network"),
            pod_cidr: "10.244.1.0/24".parse().expect("a network"),
            ipv6: None,
            vni: 1,
            interface_prefix: "cali".into(),
            canal: false,
            keep_bridge: false,
        };
        let mut facts = Facts::default();
        facts.files.present = vec![draft.clone(), "/opt/cni/bin/portmap".into()];
        let mut inventory = Inventory::default();
        claim_of_switch(&facts, Cni::Calico, &scope, &mut inventory);
        assert_eq!(inventory.image.files, [draft]);
        let mut inventory = Inventory::default();
        claim_of_switch(&facts, Cni::Flannel, &scope, &mut inventory);
        assert!(inventory.image.files.is_empty());
    }

    #[test]
    fn on_canal_plugin_and_credentials_are_of_both_sides() {
        let scope: CleanScope = serde_json::from_value(serde_json::json!({
            "cluster_cidr": "10.244.0.0/16", "pod_cidr": "10.244.1.0/24", "vni": 1, "network": "k8s-pod-network",
            "conflist": "10-calico.conflist", "conf_dir": "/etc/cni/net.d", "bin_dir": "/opt/cni/bin", "interface_prefix": "cali",
            "canal": true
        }))
        .expect("a scope");
        let [calicos, canals, store] = [
            "/etc/cni/net.d/10-calico.conflist",
            "/etc/cni/net.d/10-canal.conflist",
            "/var/lib/cni/networks/k8s-pod-network",
        ];
        let mut facts = Facts::default();
        let both = ["/etc/cni/net.d/calico-kubeconfig", "/opt/cni/bin/calico", "/run/calico", "/var/lib/calico"];
        facts.files.present = [calicos, canals, store].into_iter().chain(both).map(str::to_owned).collect();
        let owned = |cni, conflist: &str| {
            let mut inventory = Inventory::default();
            let scope = CleanScope { conflist: conflist.into(), ..scope.clone() };
            claim_of_switch(&facts, cni, &scope, &mut inventory);
            inventory.image.files
        };
        assert_eq!(owned(Cni::Calico, "10-calico.conflist"), [calicos]);
        assert_eq!(owned(Cni::Flannel, "10-canal.conflist"), [canals, store]);
    }

    #[test]
    fn a_drop_in_is_owned_only_if_it_speaks_of_nothing_else() {
        let calico = "[keyfile]\nunmanaged-devices=interface-name:cali*;interface-name:tunl*;interface-name:vxlan.calico;interface-name:wireguard.cali\n";
        assert!(names_only(calico, Cni::Calico) && !names_only(calico, Cni::Flannel));
        let both = "[keyfile]\nunmanaged-devices=interface-name:flannel*;interface-name:cali*\n";
        assert!(!names_only(both, Cni::Calico) && !names_only(both, Cni::Flannel));
        assert!(!names_only("[keyfile]\nunmanaged-devices=interface-name:eth1\n", Cni::Calico));
        assert!(!names_only(&format!("{calico}[main]\ndns=none\n"), Cni::Calico));
        assert!(!names_only("", Cni::Calico));
    }
}
