//! The adapters: the only door to the machine. They hold no policy: a typed request becomes one batch of system calls,
//! and a typed answer comes back.

use std::path::{Path, PathBuf};

pub mod answerer;
pub mod archive;
pub mod backup;
pub mod bpffs;
pub mod cri;
pub mod files;
pub mod ipset;
pub mod iptables;
pub mod journald;
pub mod kmod;
pub mod kube;
pub mod line;
pub mod local_http;
pub mod locks;
pub mod machine;
pub mod mount;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod nft_rules;
pub mod ping;
pub mod process;
pub mod run;
pub mod sockets;
pub mod sysctl;
pub mod systemd;
pub mod xfrm;

/// A node as seen through its file-system root.
///
/// The root concerns files and sockets alone. What the kernel shows (links, routes, /proc) is always that of the
/// namespaces this process runs in.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
    overrides: Overrides,
}

/// What the operator has named, so that the adapters do not look for it. Paths of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Directory of the CNI configurations.
    pub conf_dir: Option<String>,
    /// Directory of the CNI plugins.
    pub bin_dir: Option<String>,
    /// Socket of the container runtime.
    pub runtime_socket: Option<String>,
    /// kubelet's kubeconfig.
    pub kubeconfig: Option<String>,
}

impl Host {
    /// The node whose files lie under `root`; `/` for the running one.
    pub fn new(root: impl Into<PathBuf>) -> Host {
        Host { root: root.into(), overrides: Overrides::default() }
    }

    /// The same node, of which the operator has named some places.
    pub fn with_overrides(self, overrides: Overrides) -> Host {
        Host { overrides, ..self }
    }

    /// What the operator has named.
    pub fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    /// The file-system root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where an absolute path of the node lies as seen from here.
    pub fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let absolute = absolute.as_ref();
        match absolute.strip_prefix("/") {
            Ok(relative) => self.root.join(relative),
            Err(_) => self.root.join(absolute),
        }
    }
}

impl Default for Host {
    fn default() -> Host {
        Host::new("/")
    }
}
