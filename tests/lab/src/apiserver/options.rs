//! How a server is started.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Which Kubernetes the refusals are those of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Regime {
    /// Before 1.32: a node's credential reads all Nodes and Pods.
    #[value(name = "1.20")]
    V1_20,
    /// From 1.32: it reads its own Node and its own Pods only.
    #[value(name = "1.36")]
    V1_36,
}

impl Regime {
    /// That of Kubernetes 1.MINOR.
    pub fn of_minor(minor: u32) -> Self {
        if minor < 32 { Self::V1_20 } else { Self::V1_36 }
    }

    /// The version of the group policy that serves budgets and evictions.
    pub fn policy(self) -> &'static str {
        match self {
            Regime::V1_20 => "v1beta1",
            Regime::V1_36 => "v1",
        }
    }

    /// What /version says.
    pub fn git_version(self) -> &'static str {
        match self {
            Regime::V1_20 => "v1.20.2",
            Regime::V1_36 => "v1.36.2",
        }
    }
}

/// Where to listen: an address, in another network namespace if its path is given.
#[derive(Debug, Clone, PartialEq)]
pub struct Listen {
    /// For instance /run/netns/NAME or /proc/PID/ns/net.
    pub netns: Option<PathBuf>,
    /// Port 0: any free one.
    pub address: SocketAddr,
}

impl std::str::FromStr for Listen {
    type Err = String;

    /// `[NETNS_PATH@]ADDRESS:PORT`
    fn from_str(text: &str) -> Result<Self, String> {
        let (netns, address) = match text.rsplit_once('@') {
            Some((path, address)) => (Some(PathBuf::from(path)), address),
            None => (None, text),
        };
        let address = address
            .parse()
            .map_err(|_| format!("{address} is not ADDRESS:PORT. To fix it: write for instance 127.0.0.1:6443"))?;
        Ok(Self { netns, address })
    }
}

/// `nodectl-lab apiserver`
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "apiserver")]
pub struct Options {
    /// Where to listen; may be given several times: [NETNS_PATH@]ADDRESS:PORT
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: Vec<Listen>,
    /// Directory with the cluster's certificates; created if it is not there
    #[arg(long)]
    pub pki: PathBuf,
    /// File that keeps the objects over restarts
    #[arg(long)]
    pub state: Option<PathBuf>,
    /// Unix socket for fault injection
    #[arg(long)]
    pub control: Option<PathBuf>,
    /// File to write "ADDRESS:PORT" to, one line per --listen, once the server answers
    #[arg(long)]
    pub port_file: Option<PathBuf>,
    /// Folder with a real kube-apiserver and etcd, which then answer in this server's place
    #[arg(long)]
    pub assets: Option<PathBuf>,
    /// Whose refusals to give; a real server gives its own
    #[arg(long, value_enum, default_value = "1.36")]
    pub regime: Regime,
    /// Run no controllers
    #[arg(long)]
    pub no_controllers: bool,
    /// How the controllers work
    #[command(flatten)]
    pub controllers: ControllerOptions,
}

/// How the controllers work.
#[derive(Debug, Clone, clap::Args)]
pub struct ControllerOptions {
    /// Nodes without a podCIDR get one out of this
    #[arg(long, default_value = "10.244.0.0/16")]
    pub cluster_cidr: ipnet::Ipv4Net,
    /// And one out of this, in a dual-stack cluster
    #[arg(long)]
    pub cluster_cidr_v6: Option<ipnet::Ipv6Net>,
    /// A node whose heartbeat is older than this is NotReady
    #[arg(long, value_parser = milliseconds, default_value = "40000")]
    pub node_grace_ms: Duration,
    /// How long the controllers wait after a change before they look
    #[arg(long, value_parser = milliseconds, default_value = "50")]
    pub settle_ms: Duration,
    /// How often Calico's IPAM garbage collector looks; its default is 7.5 minutes
    #[arg(long, value_parser = milliseconds, default_value = "450000")]
    pub ipam_gc_period_ms: Duration,
    /// How long an allocation or an empty block must look leaked before it is released
    #[arg(long, value_parser = milliseconds, default_value = "900000")]
    pub ipam_gc_grace_ms: Duration,
}

fn milliseconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(Duration::from_millis)
}

impl Options {
    /// The defaults for a server inside a test: the stand-in, on loopback, any port, no state file.
    pub fn new(pki: impl Into<PathBuf>) -> Self {
        Self {
            listen: vec![Listen { netns: None, address: SocketAddr::from(([127, 0, 0, 1], 0)) }],
            pki: pki.into(),
            state: None,
            control: None,
            port_file: None,
            assets: None,
            regime: Regime::V1_36,
            no_controllers: false,
            controllers: ControllerOptions::default(),
        }
    }
}

impl Default for ControllerOptions {
    fn default() -> Self {
        Self {
            cluster_cidr: ipnet::Ipv4Net::new_assert([10, 244, 0, 0].into(), 16),
            cluster_cidr_v6: None,
            node_grace_ms: Duration::from_secs(40),
            settle_ms: Duration::from_millis(50),
            ipam_gc_period_ms: Duration::from_secs(450),
            ipam_gc_grace_ms: Duration::from_secs(900),
        }
    }
}
