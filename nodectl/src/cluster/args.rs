//! The command line of `nodectl cluster`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ipnet::{Ipv4Net, Ipv6Net};

use super::request::{NamespacedName, Request};
use crate::cni::Cni;
use crate::request::LONGEST_S;

/// Arguments of `cluster`.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    /// An administrator's kubeconfig; by default the one that kubectl would take, else the distribution's.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; its current one by default.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: ClusterCommand,
}

/// What there is to do with a cluster.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Make every node ready to be switched from flannel to Calico, and tell the nodes what they must know. Run it
    /// again for nodes that join.
    Prepare(Box<PrepareArgs>),
    /// Turn a manifest of Calico's or flannel's into one that is safe to apply to this cluster, and print it.
    Manifest(ManifestArgs),
    /// With `prepare --pace`, or after `pause`: let nodes begin.
    Allow(AllowArgs),
    /// Let no further node begin; one that is in the middle of its switch goes on.
    Pause(PauseArgs),
    /// Show where every node stands. Exit 0 when all nodes are on the CNI asked for, else 2.
    Status(StatusArgs),
    /// When no node is on flannel any more: remove flannel from the cluster, and everything that prepare needed.
    Finish(FinishArgs),
    /// As long as no node is on Calico: put back what prepare changed.
    Abort(AbortArgs),
}

/// Arguments of the commands that write.
#[derive(Debug, Clone, Args)]
pub struct WriteArgs {
    /// Show what would be written, and write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// With --dry-run: exit 2 where something would be written.
    #[arg(long, requires = "dry_run")]
    pub detailed_exitcode: bool,
    /// Where every object is saved before it is changed; /var/lib/nodectl/backup by default.
    #[arg(long, value_name = "DIR")]
    pub backup_dir: Option<PathBuf>,
    /// How long to wait for what others have to do meanwhile (pods that are replaced, nodes that join), in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(..=LONGEST_S))]
    pub wait: u64,
    /// How many writes may be on their way to the API server at the same time.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub parallel: u8,
}

/// Which DaemonSets are meant, where that is not found.
#[derive(Debug, Clone, Default, Args)]
pub struct AgentArgs {
    /// flannel's DaemonSet, as NAMESPACE/NAME.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub flannel_daemonset: Option<NamespacedName>,
    /// Calico's DaemonSet, as NAMESPACE/NAME.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub calico_daemonset: Option<NamespacedName>,
    /// Prefix of flannel's annotations on the nodes.
    #[arg(long, value_name = "PREFIX")]
    pub flannel_annotation_prefix: Option<String>,
}

impl AgentArgs {
    /// A request with these and nothing else.
    pub fn request(&self) -> Request {
        Request {
            flannel_daemonset: self.flannel_daemonset.clone(),
            calico_daemonset: self.calico_daemonset.clone(),
            flannel_annotation_prefix: self.flannel_annotation_prefix.clone(),
            ..Request::default()
        }
    }
}

/// Arguments of `cluster prepare`. What is not given is found.
#[derive(Debug, Args)]
pub struct PrepareArgs {
    /// The agents.
    #[command(flatten)]
    pub agents: AgentArgs,
    /// flannel's network.
    #[arg(long, value_name = "CIDR")]
    pub flannel_network: Option<Ipv4Net>,
    /// flannel's IPv6 network, where it carries IPv6 beside IPv4.
    #[arg(long, value_name = "CIDR")]
    pub flannel_ipv6_network: Option<Ipv6Net>,
    /// MTU of flannel's overlay (FLANNEL_MTU in /run/flannel/subnet.env of a node).
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(576..=65535))]
    pub flannel_mtu: Option<u32>,
    /// Whether flannel masquerades traffic of pods to the outside.
    #[arg(long, value_name = "BOOL")]
    pub flannel_ip_masq: Option<bool>,
    /// Prefix length of a node's pod CIDR.
    #[arg(long, value_name = "LENGTH", value_parser = clap::value_parser!(u8).range(8..=30))]
    pub flannel_subnet_len: Option<u8>,
    /// Prefix length of a node's IPv6 pod CIDR.
    #[arg(long, value_name = "LENGTH", value_parser = clap::value_parser!(u8).range(16..=124))]
    pub flannel_ipv6_subnet_len: Option<u8>,
    /// flannel's VXLAN network identifier.
    #[arg(long, value_name = "VNI", value_parser = clap::value_parser!(u32).range(1..16_777_216))]
    pub flannel_vni: Option<u32>,
    /// UDP port of flannel's overlay.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub flannel_port: Option<u16>,
    /// Directory on the nodes that both agents write their CNI configuration to.
    #[arg(long, value_name = "DIR")]
    pub cni_config_dir: Option<String>,
    /// Go on although network policies begin to be enforced, on each node from its switch on; they are listed.
    #[arg(long)]
    pub accept_policy_change: bool,
    /// Let a node begin only once `nodectl cluster allow` has named it.
    #[arg(long)]
    pub pace: bool,
    /// The write.
    #[command(flatten)]
    pub write: WriteArgs,
}

impl PrepareArgs {
    /// What these ask for.
    pub fn request(&self) -> Request {
        Request {
            flannel_network: self.flannel_network,
            flannel_ipv6_network: self.flannel_ipv6_network,
            flannel_mtu: self.flannel_mtu,
            flannel_ip_masq: self.flannel_ip_masq,
            flannel_subnet_len: self.flannel_subnet_len,
            flannel_ipv6_subnet_len: self.flannel_ipv6_subnet_len,
            flannel_vni: self.flannel_vni,
            flannel_port: self.flannel_port,
            cni_config_dir: self.cni_config_dir.clone(),
            accept_policy_change: self.accept_policy_change,
            pace: self.pace,
            ..self.agents.request()
        }
    }
}

/// Arguments of `cluster status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The agents.
    #[command(flatten)]
    pub agents: AgentArgs,
    /// The CNI that the roll goes to: exit 0 only when all nodes are on it, else 2.
    #[arg(long, value_enum, default_value = "calico")]
    pub to: Cni,
    /// Go on showing it, whenever it changes, until the roll is complete. With --output json each time one line.
    #[arg(long)]
    pub watch: bool,
    /// Wait so long, in seconds, for the roll to be complete; with --watch for ever where this is not given.
    #[arg(long, value_name = "SECONDS")]
    pub wait: Option<u64>,
}

/// Arguments of `cluster manifest`.
#[derive(Debug, Args)]
pub struct ManifestArgs {
    /// The agents.
    #[command(flatten)]
    pub agents: AgentArgs,
    /// The manifest, in YAML; `-` is standard input.
    pub file: PathBuf,
}

/// Arguments of `cluster allow`.
#[derive(Debug, Args)]
pub struct AllowArgs {
    /// The nodes that may begin.
    #[arg(value_name = "NODE", required_unless_present = "all")]
    pub nodes: Vec<String>,
    /// Every node that is still on flannel, the control plane excepted unless it is all that is left.
    #[arg(long, conflicts_with = "nodes")]
    pub all: bool,
    /// Let nodes of the control plane begin before the others have ended, or several at the same time.
    #[arg(long)]
    pub force: bool,
    /// The agents.
    #[command(flatten)]
    pub agents: AgentArgs,
    /// The write.
    #[command(flatten)]
    pub write: WriteArgs,
}

/// Arguments of `cluster pause`.
#[derive(Debug, Args)]
pub struct PauseArgs {
    /// The nodes that may not begin; all where none is named.
    #[arg(value_name = "NODE")]
    pub nodes: Vec<String>,
    /// The agents.
    #[command(flatten)]
    pub agents: AgentArgs,
    /// The write.
    #[command(flatten)]
    pub write: WriteArgs,
}

/// Arguments of `cluster finish`.
#[derive(Debug, Args)]
pub struct FinishArgs {
    /// The agents.
    #[command(flatten)]
    pub agents: AgentArgs,
    /// Leave the addresses of flannel's bridges reserved, for nodes that were switched in place and may still have
    /// their bridge.
    #[arg(long)]
    pub keep_reservations: bool,
    /// The write.
    #[command(flatten)]
    pub write: WriteArgs,
}

/// Arguments of `cluster abort`.
#[derive(Debug, Args)]
pub struct AbortArgs {
    /// The agents.
    #[command(flatten)]
    pub agents: AgentArgs,
    /// The write.
    #[command(flatten)]
    pub write: WriteArgs,
}
