//! The steps of a switch, as data: what `plan` prints, what the journal holds and what `revert` reads are this one type.
//!
//! A step carries all it needs to be done or undone on its own, never an index or a handle. What each does to the node
//! stands in [`crate::act`], one file a step.

mod before;
pub(crate) mod words;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use before::{Before, OverlayImage, RemovedImage};

use crate::adopt::Way;
use crate::cni::Cni;
use crate::facts::Route;
use crate::probe::Wanted;
use crate::rules::OwnedRules;

/// One step of a switch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// Copies the plugin binaries that an agent's installer overwrites.
    PreserveBinaries {
        /// CNI binary directory.
        dir: String,
        /// Names that exist there now.
        names: Vec<String>,
    },
    /// Copies the files that an earlier life of the CNI that is to come has left; its installer takes them over.
    PreserveFiles {
        /// That CNI.
        cni: Cni,
        /// Paths of files and folders.
        files: Vec<String>,
    },
    /// Writes the boot-time units' enablement, so that a reboot in mid-run is taken care of.
    EnableBootUnits {
        /// Unit names.
        units: Vec<String>,
    },
    /// Puts the shim's binary where the runtime looks for plugins.
    InstallShimBinary {
        /// Packaged binary.
        from: String,
        /// Where the runtime looks.
        to: String,
    },
    /// Sets which CNI the shim gives new pods.
    SetShimState {
        /// The CNI.
        to: Cni,
    },
    /// Puts the shim's network configuration in front of the runtime's others and waits until it is loaded.
    InstallShimConflist {
        /// Path of the file.
        path: String,
        /// Its content.
        content: Value,
    },
    /// Gives every sandbox that exists already a record in the shim.
    ImportAttachments {
        /// The CNI that made them.
        made_by: Cni,
    },
    /// Measures what answers before anything is switched.
    Baseline {
        /// What is probed.
        targets: Targets,
    },
    /// Keeps new pods off the node.
    Cordon,
    /// Evicts the pods that may move, disruption budgets respected.
    Evict {
        /// Pods at the time of planning, as `namespace/name`.
        pods: Vec<String>,
        /// How long budgets may hold the run up, in seconds.
        timeout_s: u64,
        /// Grace period in seconds, the pod's own where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grace_s: Option<u32>,
    },
    /// Lets new attachments wait until the node has settled.
    Hold {
        /// The CNI they will get.
        next: Cni,
    },
    /// Labels the node so that the agent leaves, and waits until it is gone.
    StopAgent(Agent),
    /// Puts flannel's rules back where its exit took them away (flannel 0.25.0 to 0.26.7 does).
    KeepFlannelRules {
        /// The rules as they stood.
        rules: Vec<OwnedRules>,
    },
    /// Stops every sandbox whose network the old CNI made; kubelet builds them anew.
    StopSandboxes {
        /// The CNI that made them.
        made_by: Cni,
        /// Pods at the time of planning, as `namespace/name`.
        pods: Vec<String>,
        /// Sandboxes that stay as they are, since they are re-plumbed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        spare: Vec<String>,
    },
    /// Moves host-local's store aside, once no pod has a lease in it: Calico's `upgrade-ipam` would take it for its own, lock the datastore
    /// of the whole cluster and delete plugins (Canal).
    SetLeasesAside {
        /// The store.
        store: String,
    },
    /// Keeps a second copy of the routes to other nodes while the agents change hands.
    HoldPeerRoutes(PeerRoutes),
    /// Removes that copy, once the new agent has routes of its own.
    DropPeerRoutes(PeerRoutes),
    /// Begins to ask the pods that are re-plumbed, and from them, and what was named besides.
    WatchPods {
        /// What was named.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        flows: Vec<Wanted>,
    },
    /// Says what they have missed; too long a silence fails.
    JudgeOutage {
        /// The longest silence that is accepted, in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_ms: Option<u64>,
    },
    /// Makes flannel's bridge ready for pods that are led around it.
    PrepareBridge {
        /// Its name.
        bridge: String,
    },
    /// Leads the host to a pod over the pod's own interface, still a port of the bridge.
    GuidePod(AdoptedPod),
    /// Lets the pod reach everything by way of the host.
    TurnPod(AdoptedPod),
    /// Takes the pod's interface out of the bridge and gives it the name that felix looks for.
    DetachPod(AdoptedPod),
    /// Gives the pod to Calico in writing: its address, its annotations, the shim's record.
    ClaimPod(AdoptedPod),
    /// Takes the pod out of what Calico has in writing of it: its address, its annotations.
    DisclaimPod(AdoptedPod),
    /// Gives the pod to flannel in writing: host-local's lease, flannel's note, the shim's record.
    LeasePod(AdoptedPod),
    /// Makes flannel's bridge, ready for pods that are reached around it.
    MakeBridge {
        /// Its name.
        bridge: String,
        /// Its address.
        address: IpNet,
        /// Its MTU.
        mtu: u32,
    },
    /// Makes the pod's interface a port of the bridge again, while the host's own route leads to it.
    AttachPod(AdoptedPod),
    /// Lets the pod reach its neighbours on the bridge.
    UnturnPod(AdoptedPod),
    /// Lets the bridge's own route lead to the pod.
    UnguidePod(AdoptedPod),
    /// Gives the bridge the parameters that it would have been made with.
    SettleBridge {
        /// Its name.
        bridge: String,
    },
    /// Hands the overlay's device over by its name.
    RenameOverlay {
        /// Name now.
        from: String,
        /// Name then.
        to: String,
    },
    /// Removes an overlay device that the new agent would not accept.
    DeleteOverlay {
        /// Name of the device.
        link: String,
        /// Why it cannot be handed over.
        why: String,
    },
    /// Labels the node so that the agent comes, and waits until it serves.
    StartAgent(Agent),
    /// Says on the Node that its network is there, where the new agent does not say so itself.
    MarkNetworkAvailable {
        /// The CNI that serves.
        by: Cni,
    },
    /// Makes an attachment of our own through the shim, probes from it, deletes it.
    Probe {
        /// The CNI that makes it.
        via: Cni,
        /// What is probed.
        targets: Targets,
    },
    /// Ends the hold: new pods get the new CNI.
    Release {
        /// The CNI.
        to: Cni,
    },
    /// Waits until the pods that stayed on the node have their network back.
    AwaitPods {
        /// The CNI that must have made it.
        made_by: Cni,
        /// Pods that had their network before, as `namespace/name`.
        pods: Vec<String>,
        /// Seconds.
        timeout_s: u64,
    },
    /// Lets the scheduler use the node again.
    Uncordon,
    /// Removes what the CNI left on this node, by ownership.
    Clean {
        /// The CNI.
        cni: Cni,
        /// Its network, to tell its objects from others'.
        scope: CleanScope,
    },
    /// Takes the shim's network configuration away and waits until the runtime uses the CNI's own.
    RemoveShimConflist {
        /// Path of the file.
        path: String,
    },
    /// Gives the cached results of the pods that the shim attached the name and configuration of the CNI's own network.
    HandOverAttachments {
        /// Pods at the time of planning, as `namespace/name`.
        pods: Vec<String>,
        /// The network's name.
        network: String,
        /// Its conflist, full path.
        conflist: String,
    },
    /// Removes the shim's binary from where the runtime looks for plugins.
    RemoveShimBinary {
        /// Its path.
        path: String,
    },
    /// Moves the shim's state and records aside.
    RemoveShimState {
        /// Their folder.
        folder: String,
    },
    /// Removes the enablement of the boot-time units.
    DisableBootUnits {
        /// Unit names.
        units: Vec<String>,
    },
}

/// What starting or stopping an agent needs to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Which.
    pub cni: Cni,
    /// Namespace of its DaemonSet.
    pub namespace: String,
    /// Name of its DaemonSet.
    pub daemonset: String,
    /// Its conflist, full path.
    pub conflist: String,
    /// Plugin binaries it needs, full paths.
    pub binaries: Vec<String>,
    /// Name of its overlay device.
    pub overlay: String,
    /// Name of its overlay device of IPv6, where the cluster carries both families.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay6: Option<String>,
    /// Scope for cleaning after it, should its start be undone.
    pub scope: CleanScope,
    /// Seconds it is given.
    pub timeout_s: u64,
}

impl Agent {
    /// Names of its overlay devices, IPv4 first.
    pub fn overlays(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.overlay.as_str()).chain(self.overlay6.as_deref())
    }
}

/// What tells a CNI's objects from others' on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CleanScope {
    /// The pod network.
    pub cluster_cidr: IpNet,
    /// This node's part of it.
    pub pod_cidr: IpNet,
    /// Both of IPv6, where the cluster carries both families.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<CidrsV6>,
    /// The overlay's VXLAN identifier.
    pub vni: u32,
    /// The CNI's network name.
    pub network: String,
    /// File name of its conflist.
    pub conflist: String,
    /// CNI configuration directory.
    pub conf_dir: String,
    /// CNI binary directory.
    pub bin_dir: String,
    /// Prefix of Calico's host interfaces.
    pub interface_prefix: String,
    /// flannel's part is Canal's: plugin, felix, its chains and pods' interfaces belong to both sides, and stay.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub canal: bool,
    /// flannel's bridge stays: connections of this host have its address.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_bridge: bool,
}

/// The pod network of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CidrsV6 {
    /// The pod network.
    pub cluster_cidr: IpNet,
    /// This node's part of it.
    pub pod_cidr: IpNet,
}

/// A copy of the routes to other nodes, in a table of our own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerRoutes {
    /// The table.
    pub table: u32,
    /// Priority of the rule that leads to it.
    pub priority: u32,
    /// The routes, with the overlay's name at that time.
    pub routes: Vec<Route>,
}

/// A pod that is re-plumbed while it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdoptedPod {
    /// `namespace/name`.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// Its sandbox.
    pub sandbox: String,
    /// Its interface.
    pub ifname: String,
    /// Path of its network namespace.
    pub netns: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// The host's interface for it, as felix will call it.
    pub interface: String,
    /// Metric of the host's routes that the felix at hand wants; both known ones are set where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    /// How its interface gets that name.
    pub way: Way,
}

/// What is probed, before and after.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    /// Peers' tunnel addresses, read from this node's own routes.
    pub peers: Vec<IpAddr>,
    /// The API server's service, `address:port`.
    #[serde(default)]
    pub service: String,
    /// The cluster's DNS, `address:port`.
    #[serde(default)]
    pub dns: String,
    /// This host's own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<IpAddr>,
}

/// When the step of a run that is taken back is undone, newest first within each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UndoDue {
    /// At once.
    Now,
    /// When nothing is owed any more. While the label still asks for the other agent, a reboot brings it back: its installer
    /// writes its configuration, its plugins and others' again, and but for the shim in front new pods would get them.
    Paid,
    /// When the node has been looked at and is as it was.
    Verified,
}

impl Step {
    /// Whether the step must be done again when a run is resumed, though the journal says that it was done:
    /// true for steps that hold only as long as the run lives, or whose effect pods may have undone meanwhile.
    pub fn reasserted_on_resume(&self) -> bool {
        matches!(self, Step::Hold { .. } | Step::StopSandboxes { .. } | Step::WatchPods { .. })
    }

    /// True for what is done when all is verified: until then the units see to a reboot.
    pub fn done_last(&self) -> bool {
        matches!(self, Step::DisableBootUnits { .. })
    }

    /// When a run that is taken back undoes it.
    pub fn undo_due(&self) -> UndoDue {
        match self {
            Step::EnableBootUnits { .. } => UndoDue::Verified,
            Step::PreserveBinaries { .. }
            | Step::PreserveFiles { .. }
            | Step::InstallShimBinary { .. }
            | Step::SetShimState { .. }
            | Step::InstallShimConflist { .. } => UndoDue::Paid,
            _ => UndoDue::Now,
        }
    }
}
