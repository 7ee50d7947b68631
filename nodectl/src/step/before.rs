//! What was there before a step acted, in the form in which it can be put back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::adopt::PodNetwork;
use crate::facts::{Address, FdbEntry, Link, Neighbour, NftRule, Route, Rule, TcFilter, XfrmPolicy, XfrmState};
use crate::rules::OwnedRules;

/// What a step found before it acted; undo puts this back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "was", rename_all = "kebab-case")]
pub enum Before {
    /// Nothing that undo would need.
    #[default]
    Nothing,
    /// Hashes of binaries, by name; their copies lie in the run's backup folder.
    Binaries {
        /// SHA-256 by name.
        hashes: BTreeMap<String, String>,
    },
    /// Whether units were enabled.
    Units {
        /// Names that were enabled.
        enabled: Vec<String>,
    },
    /// A file, or its absence.
    File {
        /// Text of the file; `None` where it did not exist. Binary files: see `backup`.
        #[serde(default)]
        text: Option<String>,
        /// Copy in the run's backup folder, for a file that is not text.
        #[serde(default)]
        backup: Option<String>,
        /// Permission bits.
        #[serde(default)]
        mode: u32,
    },
    /// The shim's state, as its file holds it; `None` where there was none.
    ShimState {
        /// The state file's content.
        state: Option<Value>,
    },
    /// spec.unschedulable of the Node.
    Unschedulable {
        /// As found.
        value: bool,
    },
    /// The Node's label.
    Label {
        /// Its value.
        value: Option<String>,
    },
    /// The NetworkUnavailable condition.
    Condition {
        /// The condition object.
        value: Option<Value>,
    },
    /// Kernel parameters.
    Sysctls {
        /// Values by dotted name.
        values: BTreeMap<String, String>,
    },
    /// A pod's network.
    Pod(Box<PodNetwork>),
    /// The shim's record of a pod, as its file holds it; `None` where there was none.
    Record {
        /// The record.
        record: Option<Value>,
    },
    /// A VXLAN device with all that hangs on it.
    Overlay(Box<OverlayImage>),
    /// What ownership says is to be removed, in the form in which it can be put back.
    Removed(Box<RemovedImage>),
}

/// A VXLAN device with its addresses, routes, neighbours and forwarding entries.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OverlayImage {
    /// The device; `None` where it did not exist.
    pub link: Option<Link>,
    /// Its addresses.
    pub addresses: Vec<Address>,
    /// Routes over it.
    pub routes: Vec<Route>,
    /// Its permanent neighbours.
    pub neighbours: Vec<Neighbour>,
    /// Its forwarding entries.
    pub fdb: Vec<FdbEntry>,
}

/// What cleaning removes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RemovedImage {
    /// Links, with their kind.
    pub links: Vec<Link>,
    /// Addresses on those links.
    pub addresses: Vec<Address>,
    /// Routes.
    pub routes: Vec<Route>,
    /// iptables chains and rules.
    pub rules: Vec<OwnedRules>,
    /// ipsets to destroy, and nothing to put back: their agent re-creates them.
    pub sets: Vec<String>,
    /// Native nft tables, `family name`.
    pub nft_tables: Vec<String>,
    /// Files and directories, moved into the run's backup folder.
    pub files: Vec<String>,
    /// Addresses that come off devices which stay.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stripped: Vec<Address>,
    /// Devices that stay and are set down.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set_down: Vec<String>,
    /// Policy rules.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policy_rules: Vec<Rule>,
    /// Rules of nftables, by handle.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nft_rules: Vec<NftRule>,
    /// Chains of nftables: the table as `family name`, and the chain.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nft_chains: Vec<(String, String)>,
    /// Filters at clsact hooks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<TcFilter>,
    /// Devices that lose their clsact qdisc.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clsact: Vec<String>,
    /// Devices that lose their XDP program.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub xdp: Vec<String>,
    /// Pinned eBPF objects.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<String>,
    /// IPsec policies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub xfrm_policies: Vec<XfrmPolicy>,
    /// IPsec states.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub xfrm_states: Vec<XfrmState>,
    /// Sysctls and the values that they had before the CNI.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// Kernel modules to unload.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<String>,
}
