//! What a cluster is made of.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::node::Kind;
use crate::objects::flannel::Flannel;

/// A cluster's network.
#[derive(Debug, Clone)]
pub enum Network {
    /// None: nodes stay NotReady until somebody brings one.
    None,
    /// The bridge plugin with the node's own subnet; nodes do not know each other's.
    Bridge,
    /// flannel from its DaemonSet.
    Flannel(Flannel),
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

impl Options {
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

    /// The subnet of node `index`.
    pub fn pod_cidr(&self, index: u8) -> Result<String> {
        let network: ipnet::Ipv4Net =
            self.cluster_cidr.parse().with_context(|| format!("{} is no IPv4 network", self.cluster_cidr))?;
        let subnet = network.subnets(24).context("the cluster's network has no /24")?.nth(usize::from(index));
        Ok(subnet.with_context(|| format!("{} has no /24 for node {index}", self.cluster_cidr))?.to_string())
    }
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
