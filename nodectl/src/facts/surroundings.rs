//! What surrounds the switch on this machine: who else changes it, and what restricts it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What surrounds the switch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Surroundings {
    /// Programs at work that change packages, the cluster's software or the pod network.
    pub at_work: Vec<Tool>,
    /// Directories from which the kernel runs no program (mounted noexec).
    pub noexec: Vec<String>,
    /// SELinux labels of the plugin directory and of a plugin in it, by path; empty where SELinux does not enforce.
    pub labels: BTreeMap<String, String>,
    /// What tells fapolicyd whom to trust, by path; `None` where it does not run.
    pub fapolicyd: Option<BTreeMap<String, String>>,
    /// NetworkManager's configuration, by path; `None` where it does not run.
    pub network_manager: Option<BTreeMap<String, String>>,
    /// systemd-networkd's configuration, by path; `None` where it does not run.
    pub networkd: Option<BTreeMap<String, String>>,
}

/// A program at work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// The lock that it holds, where that gave it away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
}
