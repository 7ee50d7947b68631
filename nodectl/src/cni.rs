//! The two CNIs that a node can be on, and the names under which each is known.

use serde::{Deserialize, Serialize};

/// One of the two CNIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Cni {
    /// flannel.
    Flannel,
    /// Calico.
    Calico,
}

/// Label on a Node that says which agent its DaemonSet pods are wanted of: `flannel`, `none` or `calico`.
pub const NODE_LABEL: &str = "nodectl.io/cni";

/// Annotation on a Node that holds what `cluster prepare` wrote.
pub const PREPARED_ANNOTATION: &str = "nodectl.io/prepared";

/// Annotation on a Node that says where the node's last run stands ([`crate::run_note::RunNote`]).
pub const RUN_ANNOTATION: &str = "nodectl.io/run";

/// Annotation on a Node that says whether it may begin: [`PACE_WAIT`] or [`PACE_ALLOWED`]; without it, it may.
pub const PACE_ANNOTATION: &str = "nodectl.io/pace";

/// The node does not begin before it is allowed to.
pub const PACE_WAIT: &str = "wait";

/// The node may begin.
pub const PACE_ALLOWED: &str = "allowed";

/// Calico's own label; any value but `calico` keeps its garbage collector from giving away empty blocks of the node.
pub const CALICO_MIGRATION_LABEL: &str = "projectcalico.org/node-network-during-migration";

impl Cni {
    /// The name used in labels, flags and the shim's state.
    pub fn name(self) -> &'static str {
        match self {
            Cni::Flannel => "flannel",
            Cni::Calico => "calico",
        }
    }

    /// The other CNI.
    pub fn other(self) -> Cni {
        match self {
            Cni::Flannel => Cni::Calico,
            Cni::Calico => Cni::Flannel,
        }
    }

    /// Base name of the agent's process on the node.
    pub fn process(self) -> &'static str {
        match self {
            Cni::Flannel => "flanneld",
            Cni::Calico => "calico-node",
        }
    }
}

impl From<cni_store::state::Backend> for Cni {
    fn from(backend: cni_store::state::Backend) -> Cni {
        match backend {
            cni_store::state::Backend::Flannel => Cni::Flannel,
            cni_store::state::Backend::Calico => Cni::Calico,
        }
    }
}

impl std::fmt::Display for Cni {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Cni::Flannel => "flannel",
            Cni::Calico => "Calico",
        })
    }
}
