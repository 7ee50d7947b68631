//! The command line of `nodectl cluster`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ipnet::Ipv4Net;

use super::request::{NamespacedName, Request};
use crate::cni::Cni;

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
    /// Show where every node stands. Exit 0 when all nodes are on the same CNI, else 2.
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
    /// Where every object is saved before it is changed.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/nodectl/backup")]
    pub backup_dir: PathBuf,
    /// How long to wait for what others have to do meanwhile (pods that are replaced, nodes that join), in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub wait: u64,
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
    /// MTU of flannel's overlay (FLANNEL_MTU in /run/flannel/subnet.env of a node).
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(576..=65535))]
    pub flannel_mtu: Option<u32>,
    /// Whether flannel masquerades traffic of pods to the outside.
    #[arg(long, value_name = "BOOL")]
    pub flannel_ip_masq: Option<bool>,
    /// Prefix length of a node's pod CIDR.
    #[arg(long, value_name = "LENGTH", value_parser = clap::value_parser!(u8).range(8..=30))]
    pub flannel_subnet_len: Option<u8>,
    /// flannel's VXLAN network identifier.
    #[arg(long, value_name = "VNI", value_parser = clap::value_parser!(u32).range(1..16_777_216))]
    pub flannel_vni: Option<u32>,
    /// UDP port of flannel's overlay.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub flannel_port: Option<u16>,
    /// Directory on the nodes that both agents write their CNI configuration to.
    #[arg(long, value_name = "DIR")]
    pub cni_config_dir: Option<String>,
    /// The write.
    #[command(flatten)]
    pub write: WriteArgs,
}

impl PrepareArgs {
    /// What these ask for.
    pub fn request(&self) -> Request {
        Request {
            flannel_network: self.flannel_network,
            flannel_mtu: self.flannel_mtu,
            flannel_ip_masq: self.flannel_ip_masq,
            flannel_subnet_len: self.flannel_subnet_len,
            flannel_vni: self.flannel_vni,
            flannel_port: self.flannel_port,
            cni_config_dir: self.cni_config_dir.clone(),
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
