//! What a node looks like: plain data in normal form, with devices by name and never by index, so that the same type
//! is the output of `status --output json`, the input of every decision, and a test's fixture.

mod network;
mod surroundings;
mod traces;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use network::{Address, FdbEntry, Link, Neighbour, Network, Route, RouteKind, Rule, Vxlan};
pub use surroundings::{Surroundings, Tool};
pub use traces::{Mention, NftRule, NftTable, Note, Peer, TcFilter, Traces, XfrmPolicy, XfrmState};

use crate::adopt::PodNetwork;
use crate::cni::Cni;
use crate::journal::Position;
use crate::prepared::Prepared;

/// Version of the serialised form of [`Facts`].
pub const FACTS_VERSION: u32 = 1;

/// Everything that was observed about this node, at one time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Version of this form, [`FACTS_VERSION`].
    pub schema_version: u32,
    /// The machine: kernel, identity, room on disk.
    pub machine: Machine,
    /// Links, addresses, routes, rules, neighbours and forwarding entries.
    pub network: Network,
    /// Packet filter state, per backend and family.
    pub firewall: Firewall,
    /// Sysctls that matter here, by dotted name.
    pub sysctls: BTreeMap<String, String>,
    /// Directories and files of CNI, flannel and Calico.
    pub files: Files,
    /// Processes of the agents and of kubelet.
    pub processes: Vec<Process>,
    /// Units known to systemd; empty where there is no systemd.
    pub units: BTreeMap<String, Unit>,
    /// The container runtime, seen through CRI; `None` where its socket does not answer.
    pub runtime: Option<Runtime>,
    /// The API server's view of this node; `None` where it does not answer.
    pub cluster: Option<ClusterView>,
    /// When this was observed, seconds since 1970.
    pub observed_at: i64,
    /// Why a part could not be observed, by the part's name ("cluster", "runtime", ...).
    pub unobserved: BTreeMap<String, String>,
    /// The shim's state and records on this node.
    pub shim: Shim,
    /// Runs of nodectl on this node.
    pub runs: Runs,
    /// Who else changes this machine, and what restricts it.
    pub surroundings: Surroundings,
    /// Networks of pods by sandbox, or why they cannot be re-plumbed; looked at for strategy in-place alone.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub plumbing: BTreeMap<String, Result<PodNetwork, String>>,
    /// What `cleanup` and `doctor` look at besides; `None` where nobody has looked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traces: Option<Box<Traces>>,
}

/// The machine under the node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// Host name.
    pub hostname: String,
    /// Kernel release, as in `uname -r`.
    pub kernel: String,
    /// Boot identity, /proc/sys/kernel/random/boot_id.
    pub boot_id: String,
    /// Effective user id of nodectl.
    pub uid: u32,
    /// Free bytes by directory.
    pub free_bytes: BTreeMap<String, u64>,
    /// Directories that cannot be written, with the reason.
    pub unwritable: BTreeMap<String, String>,
    /// Whether the kernel renames a device that is up; tried for strategy in-place alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rename_live: Option<bool>,
}

/// Packet filter state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Firewall {
    /// The backend that kubelet and kube-proxy write to (`nft` or `legacy`), by their KUBE- chains; `None` where neither has any.
    pub active: Option<Backend>,
    /// `iptables-save` output per backend and family, only for backends that have tables.
    pub saved: Vec<Saved>,
    /// Native nft tables as `family name`, those of the iptables-nft compatibility layer left out.
    pub nft_tables: Vec<String>,
    /// Names of ipsets.
    pub sets: Vec<String>,
}

/// An iptables variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// iptables over nf_tables.
    Nft,
    /// The x_tables original.
    Legacy,
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// One `iptables-save` output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Which iptables.
    pub backend: Backend,
    /// Which family.
    pub family: Family,
    /// The text, without counters and comments lines.
    pub text: String,
    /// Tables that iptables cannot show, since they hold rules of nftables' own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub opaque: Vec<String>,
}

/// Files of the CNIs on this node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Files {
    /// The CNI configuration directory that the runtime reads.
    pub conf_dir: String,
    /// The CNI binary directory that the runtime uses.
    pub bin_dir: String,
    /// Names in the configuration directory, sorted by bytes as the runtime does.
    pub conf_names: Vec<String>,
    /// Parsed network configurations by file name; a file that does not parse maps to null.
    pub confs: BTreeMap<String, serde_json::Value>,
    /// Size in bytes of each plugin binary by name.
    pub binaries: BTreeMap<String, u64>,
    /// The variables of /run/flannel/subnet.env.
    pub subnet_env: BTreeMap<String, String>,
    /// Which of the paths that the CNIs are known to leave behind exist.
    pub present: Vec<String>,
}

/// A process that matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// Base name of argv[0], or of the executable.
    pub name: String,
    /// Arguments.
    pub args: Vec<String>,
}

/// A systemd unit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Unit {
    /// ActiveState.
    pub active: String,
    /// UnitFileState.
    pub enabled: String,
}

/// The container runtime.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Runtime {
    /// `containerd`, `cri-o`, ...
    pub name: String,
    /// Its version.
    pub version: String,
    /// Name of the CNI network it has loaded, where it tells.
    pub network: Option<String>,
    /// Types of that network's plugins.
    pub plugins: Vec<String>,
    /// The CNI network is ready.
    pub network_ready: bool,
    /// How many of the CNI configurations each pod is attached to (containerd's max_conf_num; 0 is all), where it tells.
    pub max_conf_num: Option<u64>,
    /// Image references and digests it holds.
    pub images: Vec<String>,
    /// Pod sandboxes.
    pub sandboxes: Vec<Sandbox>,
}

/// A pod sandbox of the runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sandbox {
    /// Sandbox id (the CNI container id).
    pub id: String,
    /// Pod namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// Pod uid.
    pub uid: String,
    /// Uses the host's network.
    pub host_network: bool,
    /// Ready, in CRI's sense.
    pub ready: bool,
    /// Address CRI reports.
    pub ip: Option<IpAddr>,
    /// Path of its network namespace, where CRI tells.
    pub netns: Option<String>,
}

impl Sandbox {
    /// `namespace/name` of its pod.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// What the API server says about this node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterView {
    /// The node's name, from the kubelet's certificate.
    pub node: String,
    /// The Node's uid.
    pub uid: String,
    /// Labels of the Node.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the Node, `nodectl.io/prepared` left out.
    pub annotations: BTreeMap<String, String>,
    /// spec.podCIDRs.
    pub pod_cidrs: Vec<IpNet>,
    /// spec.unschedulable.
    pub unschedulable: bool,
    /// InternalIP addresses.
    pub addresses: Vec<IpAddr>,
    /// Conditions: type -> (status, reason).
    pub conditions: BTreeMap<String, (String, String)>,
    /// What prepare wrote, if it parses; the error text otherwise.
    pub prepared: Option<Result<Prepared, String>>,
    /// Pods bound to this node.
    pub pods: Vec<Pod>,
    /// How many seconds this node's clock is ahead of the server's; `None` where the server did not tell the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_ahead_s: Option<i64>,
    /// What the server refused when asked with `dryRun=All`, by operation; `None` where not asked.
    pub refused: Option<BTreeMap<String, String>>,
}

/// A pod bound to this node, as far as decisions need it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Uses the host's network.
    pub host_network: bool,
    /// Kind and name of the controlling owner.
    pub controller: Option<(String, String)>,
    /// A static pod's mirror.
    pub mirror: bool,
    /// Has emptyDir volumes.
    pub local_storage: bool,
    /// status.phase.
    pub phase: String,
    /// Is being deleted.
    pub terminating: bool,
    /// Addresses in status.
    pub ips: Vec<IpAddr>,
    /// Container ports bound on the host.
    pub host_ports: Vec<u16>,
    /// Images of its containers.
    pub images: Vec<String>,
    /// Ready condition.
    pub ready: bool,
    /// Answer of the server to a dry-run eviction: `None` where not asked, `Some(None)` where allowed, else why not.
    pub eviction: Option<Option<String>>,
}

impl Pod {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Its containers have ended for good, so it needs no network any more.
    pub fn has_ended(&self) -> bool {
        self.phase == "Succeeded" || self.phase == "Failed"
    }
}

/// The shim on this node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shim {
    /// The shim's mode (`flannel`, `calico`, `hold`); `None` where it is not installed.
    pub mode: Option<String>,
    /// Attachments by the CNI that made them.
    pub attachments: BTreeMap<Cni, Vec<String>>,
    /// DELs that still have to be done.
    pub pending: Vec<String>,
    /// The packaged binary is there.
    pub packaged: bool,
    /// The binary that the runtime calls is not the packaged one: a package does not replace it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub outdated: bool,
}

/// Runs of nodectl on this node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Runs {
    /// Id of the open run.
    pub open: Option<String>,
    /// Ids of closed runs, oldest first.
    pub closed: Vec<String>,
    /// Where the open run stands; `None` also where its journal cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// Pid of the nodectl that is at work on this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<u32>,
}

impl Facts {
    /// Parts of the node itself that could not be observed, with the reason. The API server and the runtime are not among
    /// them: that they do not answer is a finding of its own. Nor is what is nodectl's: its lock, its open run's journal.
    pub fn unseen(&self) -> Vec<String> {
        let others = ["cluster", "runtime", "units", "nodectl's lock", "the open run's journal"];
        let own = |part: &str| !others.contains(&part);
        self.unobserved.iter().filter(|(part, _)| own(part)).map(|(part, why)| format!("{part}: {why}")).collect()
    }

    /// Whether flannel's part is Canal's on this node, as prepare wrote or as a configuration shows.
    pub fn is_canal(&self) -> bool {
        let prepared = self.cluster.as_ref().and_then(|view| view.prepared.as_ref()?.as_ref().ok());
        prepared.is_some_and(|prepared| prepared.canal)
            || self.files.confs.values().any(crate::ownership::known::is_canal)
    }

    /// Whether new pods get their network from Canal: the node is on flannel's side, and that is Canal's.
    pub fn is_on_canal(&self) -> bool {
        self.is_canal() && crate::plan::current_cni(self) == Some(Cni::Flannel)
    }

    /// The process that is missing of a CNI's agent. Canal's is whole with a calico-node of its own beside flanneld.
    pub fn agent_lacks(&self, cni: Cni) -> Option<&'static str> {
        let policy = Cni::Calico.process();
        if !self.agent_runs(cni) {
            return Some(cni.process());
        }
        (cni == Cni::Flannel && self.is_canal() && !self.runs(policy)).then_some(policy)
    }

    /// Whether a CNI's agent runs, be it in part: a calico-node beside Canal's flanneld is Canal's, and is not what tells.
    pub fn agent_runs(&self, cni: Cni) -> bool {
        let others = cni == Cni::Calico && self.is_canal() && self.runs(Cni::Flannel.process());
        self.runs(cni.process()) && !others
    }

    /// Whether a process with this base name runs.
    pub fn runs(&self, name: &str) -> bool {
        self.processes.iter().any(|p| p.name == name)
    }
}
