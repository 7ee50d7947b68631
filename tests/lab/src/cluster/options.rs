//! What a cluster is made of.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::agent::family::Family;
use crate::node::Kind;
use crate::objects::canal::Canal;
use crate::objects::flannel::Flannel;

/// The IPv6 pod network of a dual-stack cluster.
pub const POD_NETWORK_V6: &str = "fd00:10:244::/56";

/// A cluster's network.
#[derive(Debug, Clone)]
pub enum Network {
    /// None: nodes stay NotReady until somebody brings one.
    None,
    /// The bridge plugin with the node's own subnet; nodes do not know each other's.
    Bridge,
    /// flannel from its DaemonSet.
    Flannel(Flannel),
    /// Canal from its DaemonSet.
    Canal(Canal),
}

/// The options of a cluster; `Options::default()` is three nodes with flannel.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many nodes, named node1, node2, ...
    pub nodes: u8,
    /// How the nodes are made, the first node's first; those beyond its end are light.
    pub kinds: Vec<Kind>,
    /// The network of all pods; node N has the Nth /24 of it.
    pub cluster_cidr: String,
    /// The IPv6 network of all pods, which makes a cluster dual stack; node N has the Nth /64 of it. See [`Options::dual_stack`].
    pub cluster_cidr_v6: Option<String>,
    /// The lab's binary.
    pub binary: PathBuf,
    /// The nodectl under test, seen as /usr/local/bin/nodectl on light nodes and as /usr/bin/nodectl on full ones; none when it is not built.
    pub nodectl: Option<PathBuf>,
    /// The shim under test, seen as /usr/libexec/nodectl/cni-shim on every node; none when it is not built.
    pub shim: Option<PathBuf>,
    /// Folders with CNI plugins, first match wins.
    pub plugin_folders: Vec<PathBuf>,
    /// Text files that every node has from the start: (path in the node, text).
    pub files: Vec<(String, String)>,
    /// Run an API server, register nodes with it.
    pub api: bool,
    /// Folder with a real kube-apiserver and etcd that take the stand-in's place.
    pub assets: Option<PathBuf>,
    /// More arguments for the API server, such as --regime 1.20.
    pub api_arguments: Vec<String>,
    /// What the pods' network is from the start.
    pub network: Network,
    /// Real programs in a stand-in's place: (the stand-in's name, the program).
    pub programs: Vec<(String, PathBuf)>,
}

impl Default for Options {
    fn default() -> Options {
        let binary = built("LAB_BINARY", "nodectl-lab").unwrap_or_else(|| PathBuf::from("nodectl-lab"));
        Options {
            nodes: 3,
            kinds: Vec::new(),
            cluster_cidr: "10.244.0.0/16".to_owned(),
            cluster_cidr_v6: None,
            binary,
            nodectl: built("LAB_NODECTL", "nodectl"),
            shim: built("LAB_SHIM", "cni-shim"),
            plugin_folders: plugin_folders(),
            files: Vec::new(),
            api: true,
            assets: assets(),
            api_arguments: Vec::new(),
            network: Network::Flannel(Flannel::default()),
            programs: given_programs(),
        }
    }
}

/// The units that settle at boot what is open.
const BOOT_UNITS: [(&str, &str); 2] = [
    ("nodectl-boot.service", include_str!("../../../../systemd/nodectl-boot.service")),
    ("nodectl-settle.service", include_str!("../../../../systemd/nodectl-settle.service")),
];

impl Options {
    /// Makes the cluster dual stack: nodes have an IPv6 address and a second pod CIDR out of [`POD_NETWORK_V6`], flannel (where it is the
    /// network) and Calico's manifests (see [`Calico::of`](crate::objects::calico::Calico::of)) have both families, and flannel's
    /// plugin is the lab's own, as the packaged one knows no IPv6.
    ///
    /// ```
    /// # use nodectl_lab::cluster::Options;
    /// let mut options = Options { nodes: 2, ..Options::default() };
    /// options.dual_stack();
    /// assert_eq!(options.pod_cidrs(1).unwrap(), ["10.244.1.0/24", "fd00:10:244:1::/64"]);
    /// ```
    pub fn dual_stack(&mut self) {
        self.cluster_cidr_v6 = Some(POD_NETWORK_V6.to_owned());
        if let Network::Flannel(flannel) = &mut self.network {
            flannel.network_v6 = Some(POD_NETWORK_V6.to_owned());
        }
    }

    /// Makes the cluster one on Canal.
    pub fn canal(&mut self) {
        self.network = Network::Canal(Canal::default());
    }

    /// Gives light nodes the boot-time units as the package has them, but for where such nodes see nodectl.
    pub fn boot_units(&mut self) {
        for (name, text) in BOOT_UNITS {
            let text = text.replace("/usr/bin/nodectl", "/usr/local/bin/nodectl");
            self.files.push((format!("/etc/systemd/system/{name}"), text));
        }
    }

    /// True if flanneld and a calico-node for policy alone share a pod.
    pub fn is_canal(&self) -> bool {
        matches!(self.network, Network::Canal(_))
    }

    /// The families that pods have addresses of.
    pub fn families(&self) -> &'static [Family] {
        if self.cluster_cidr_v6.is_some() { &Family::BOTH } else { &[Family::V4] }
    }

    /// How node `index`, from 1, is made.
    pub fn kind(&self, index: u8) -> Kind {
        let place = usize::from(index).saturating_sub(1);
        self.kinds.get(place).copied().unwrap_or(Kind::Light)
    }

    /// Checks what the machine must have.
    pub fn check(&self) -> Result<()> {
        if !nix::unistd::geteuid().is_root() {
            bail!("the lab needs root for its namespaces. To fix it: run with sudo");
        }
        if !self.binary.exists() {
            bail!(
                "the lab's binary {} is missing. To fix it: cargo build -p nodectl-lab, or name it in LAB_BINARY",
                self.binary.display()
            );
        }
        if self.nodes == 0 || self.nodes > 200 {
            bail!("a cluster of {} nodes cannot be made. To fix it: ask for 1 to 200", self.nodes);
        }
        Ok(())
    }

    /// A CNI plugin's file.
    pub fn plugin(&self, name: &str) -> Option<PathBuf> {
        self.plugin_folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file())
    }

    /// The IPv4 subnet of node `index`.
    pub fn pod_cidr(&self, index: u8) -> Result<String> {
        nth_subnet(&self.cluster_cidr, 24, index)
    }

    /// All subnets of node `index`, IPv4 first.
    pub fn pod_cidrs(&self, index: u8) -> Result<Vec<String>> {
        let second = self.cluster_cidr_v6.as_deref().map(|network| nth_subnet(network, 64, index));
        std::iter::once(self.pod_cidr(index)).chain(second).collect()
    }
}

/// The subnet of that length and number.
fn nth_subnet(network: &str, length: u8, number: u8) -> Result<String> {
    let parsed: ipnet::IpNet = network.parse().with_context(|| format!("{network} is no network"))?;
    let subnet =
        parsed.subnets(length).with_context(|| format!("{network} has no /{length}"))?.nth(usize::from(number));
    Ok(subnet.with_context(|| format!("{network} has no /{length} for node {number}"))?.to_string())
}

/// A binary named by the environment, else one beside this program or one folder up, as cargo places tests.
fn built(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(PathBuf::from(path));
    }
    let here = std::env::current_exe().ok()?;
    here.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The folder with a real kube-apiserver and etcd that the environment names.
pub fn assets() -> Option<PathBuf> {
    std::env::var_os("KUBEBUILDER_ASSETS").filter(|folder| !folder.is_empty()).map(PathBuf::from)
}

/// Real programs that the environment names.
fn given_programs() -> Vec<(String, PathBuf)> {
    let named = [("flanneld", "LAB_FLANNELD"), ("calico-node", "LAB_CALICO_NODE")];
    named
        .into_iter()
        .filter_map(|(program, variable)| Some((program.to_owned(), std::env::var_os(variable)?.into())))
        .collect()
}

/// Where CNI plugins come from: what the environment names, the packaged ones, the flannel plugin of an older package.
fn plugin_folders() -> Vec<PathBuf> {
    let named = std::env::var_os("LAB_CNI_BIN_DIR").map(PathBuf::from);
    named.into_iter().chain([PathBuf::from("/usr/lib/cni"), cache().join("cni-0.9.0/usr/lib/cni")]).collect()
}

/// Where `tests/provision` keeps what it fetched.
pub fn cache() -> PathBuf {
    std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .unwrap_or_else(|| PathBuf::from("/root/.cache"))
        .join("nodectl-lab")
}
