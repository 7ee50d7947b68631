//! What the operator asked for, resolved: flags, configuration file and defaults in one place.

use serde::{Deserialize, Serialize};

use crate::cni::Cni;
use crate::probe::Asked;
use crate::window::Window;

/// The longest time limit that can be asked for, in seconds: a week. One of years overflows the clock that it is added to.
pub const LONGEST_S: u64 = 604_800;

/// What happens to the pods of the node that is switched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub enum Strategy {
    /// Cordon, evict, switch, uncordon.
    #[default]
    Drain,
    /// Re-plumb pods while they run.
    InPlace,
    /// Rebuild sandboxes in place, pods stay on the node.
    Recreate,
}

impl Strategy {
    /// As given with `--strategy`.
    pub fn name(self) -> &'static str {
        match self {
            Strategy::Drain => "drain",
            Strategy::InPlace => "in-place",
            Strategy::Recreate => "recreate",
        }
    }
}

/// What happens to a pod that cannot be re-plumbed while it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub enum Unadoptable {
    /// Preflight refuses.
    #[default]
    Refuse,
    /// Its sandbox is stopped and rebuilt, with a new address.
    Restart,
}

/// A request for a switch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// The CNI the node is to be on.
    pub to: Cni,
    /// What happens to its pods.
    pub strategy: Strategy,
    /// Preflight checks whose failure is accepted.
    pub ignore: Vec<String>,
    /// Evict pods that no controller will re-create.
    pub force: bool,
    /// Evict pods that use emptyDir; their data is lost.
    pub delete_emptydir_data: bool,
    /// Seconds that eviction may take, budgets included.
    pub drain_timeout_s: u64,
    /// Grace period of evicted pods in seconds; their own where `None`.
    pub grace_s: Option<u32>,
    /// Seconds that an agent may take to leave or to come.
    pub agent_timeout_s: u64,
    /// What happens to pods that cannot be re-plumbed (strategy in-place).
    pub unadoptable: Unadoptable,
    /// The longest silence of a pod that is re-plumbed, in milliseconds; without one, what was missed is told and no more.
    pub max_outage_ms: Option<u64>,
    /// Flows that are watched besides those of the pods that are re-plumbed (strategy in-place).
    #[serde(skip_serializing_if = "Asked::is_empty")]
    pub probe: Asked,
    /// Hours after which prepare's annotation is stale.
    pub prepared_max_age_h: u64,
    /// When the switch may begin and must have ended; always, where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
}

impl Default for Request {
    fn default() -> Self {
        Request {
            to: Cni::Calico,
            strategy: Strategy::Drain,
            ignore: Vec::new(),
            force: false,
            delete_emptydir_data: false,
            drain_timeout_s: 300,
            grace_s: None,
            agent_timeout_s: 300,
            unadoptable: Unadoptable::Refuse,
            max_outage_ms: None,
            probe: Asked::default(),
            prepared_max_age_h: 24 * 7,
            windows: Vec::new(),
        }
    }
}
