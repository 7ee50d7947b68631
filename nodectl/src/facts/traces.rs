//! What a CNI leaves beside links, routes, iptables rules and sets. Looked at for `cleanup` and `doctor` alone.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What a CNI leaves where a switch does not look.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traces {
    /// nft tables that are looked at rule by rule: plugins' shared ones, and those that `iptables-save` cannot show.
    pub nft_tables: Vec<NftTable>,
    /// Members of Calico's sets of address pools.
    pub pools: Vec<IpNet>,
    /// Filters at the clsact hooks.
    pub filters: Vec<TcFilter>,
    /// Devices with a clsact qdisc.
    pub clsact: Vec<String>,
    /// IPsec policies.
    pub xfrm_policies: Vec<XfrmPolicy>,
    /// IPsec states.
    pub xfrm_states: Vec<XfrmState>,
    /// Established TCP connections of this host, by their own address.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub connections: BTreeMap<IpAddr, usize>,
    /// Mount points.
    pub mounts: Vec<String>,
    /// Modules that can be unloaded, among those that the CNIs load.
    pub modules: Vec<String>,
    /// Tunnels of the module `ipip` besides `tunl0`, in this and other network namespaces, in words.
    pub ipip_users: Vec<String>,
    /// Names in the directories that hold what the CNIs leave, by directory.
    pub listings: BTreeMap<String, Vec<String>>,
    /// What the runtime and the plugins wrote down about each attachment.
    pub notes: Vec<Note>,
    /// Lines in others' configuration files that name a CNI's device.
    pub mentions: Vec<Mention>,
    /// Texts of NetworkManager's drop-ins, by path.
    pub snippets: BTreeMap<String, String>,
    /// Paths that a package of the distribution owns, among the plugins' binaries.
    pub packaged: Vec<String>,
    /// Sysctls that a CNI may have changed, by dotted name.
    pub sysctls: BTreeMap<String, String>,
    /// The same as the snapshot of nodectl's first run on this node shows them.
    pub sysctls_then: BTreeMap<String, String>,
    /// Who of the other nodes answers; asked for `doctor` alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<Peer>,
}

/// Another node, by the next hop of the routes to its part of the pod network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The next hop: the end of its tunnel, or the node itself.
    pub gateway: IpAddr,
    /// That answers.
    pub answers: bool,
    /// The node behind it answers; false where its address is not known.
    pub node_answers: bool,
}

/// An nftables table, rule by rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NftTable {
    /// `family name`.
    pub table: String,
    /// Chains.
    pub chains: Vec<String>,
    /// Rules.
    pub rules: Vec<NftRule>,
}

/// A rule of nftables, as far as its owner can be told from it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NftRule {
    /// `family name` of its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// What the kernel calls it by.
    pub handle: u64,
    /// Its comments: nftables' own, and those of iptables' match of that name.
    pub comments: Vec<String>,
    /// The chain that it jumps or goes to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jump: Option<String>,
}

/// A traffic-control filter at a clsact hook.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TcFilter {
    /// Interface name.
    pub link: String,
    /// At the egress hook; else at ingress.
    pub egress: bool,
    /// `bpf`, `u32`, ...
    pub kind: String,
    /// Name of the program, for `bpf`.
    pub name: String,
    /// Priority.
    pub priority: u16,
    /// Ethernet protocol, as the kernel keeps it.
    pub protocol: u16,
    /// Handle.
    pub handle: u32,
}

/// An IPsec policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct XfrmPolicy {
    /// Inner source.
    pub src: IpNet,
    /// Inner destination.
    pub dst: IpNet,
    /// `in`, `out` or `fwd`.
    pub dir: String,
    /// reqid of its template.
    pub reqid: u32,
}

/// An IPsec state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct XfrmState {
    /// Outer source.
    pub src: IpAddr,
    /// Outer destination.
    pub dst: IpAddr,
    /// `esp`, `ah`, ...
    pub proto: String,
    /// Security parameter index, in hexadecimal as `ip xfrm` shows it.
    pub spi: String,
    /// reqid.
    pub reqid: u32,
}

/// What is written down about an attachment: the runtime's cached result, host-local's lease, flannel's saved delegate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    /// Path of the file.
    pub path: String,
    /// Name of the network.
    pub network: String,
    /// Container id.
    pub container: String,
    /// When the file was last written, seconds since 1970.
    pub since: i64,
    /// Types of the network's plugins, where the file tells.
    pub plugins: Vec<String>,
    /// Interfaces on the host's side.
    pub links: Vec<String>,
    /// Addresses of the pod.
    pub ips: Vec<IpAddr>,
    /// Networks that its routes or ranges name: the first is the node's own part.
    pub networks: Vec<IpNet>,
}

/// A line of somebody's configuration that names a CNI's device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mention {
    /// The file.
    pub path: String,
    /// Line number, from 1.
    pub line: usize,
    /// The device, or the pattern.
    pub device: String,
    /// The line.
    pub text: String,
}
