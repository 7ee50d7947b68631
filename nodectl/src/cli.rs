//! The command line: raw arguments only. What they mean together is decided in [`crate::command`].

mod probe;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::cni::Cni;
use crate::report::{OutputFormat, ProgressFormat};
use crate::request::{Strategy, Unadoptable};
pub use probe::{ProbeArgs, ProbeFlags};

/// Switches a running Kubernetes node between flannel and Calico, from the node itself.
#[derive(Debug, Parser)]
#[command(name = "nodectl", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done or nothing to do, 1 failed and nothing changed, 2 changes pending \
    (--detailed-exitcode) or findings (doctor), 3 refused by preflight, 4 failed and put back, 5 needs hands or owes, 64 usage, 75 busy.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Flags that every command takes.
    #[command(flatten)]
    pub common: Common,
}

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Format of the result on stdout; text by default.
    #[arg(long, global = true, value_enum)]
    pub output: Option<OutputFormat>,
    /// Format of the progress on stderr; text by default.
    #[arg(long, global = true, value_enum)]
    pub progress: Option<ProgressFormat>,
    /// The configuration file, instead of /etc/nodectl/config.toml and config.d.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// An alternate root of the file system, for tests and images.
    #[arg(long, global = true, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// More in the log; twice for all.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Less in the log.
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check whether this node can be switched; changes nothing.
    Preflight(Switch),
    /// Show what a switch would do; changes nothing.
    Plan(PlanArgs),
    /// Switch this node.
    Migrate(MigrateArgs),
    /// Take back the open run, or the last closed one.
    Revert(RevertArgs),
    /// Finish the open run, or what it owes.
    Resume(ResumeArgs),
    /// Keep a switch that was begun with --confirm-timeout; else it is taken back by itself.
    Confirm(ConfirmArgs),
    /// Show where this node stands.
    Status,
    /// List the runs on this node.
    History,
    /// Ask again and again, from this host and from inside pods, and show what was lost; changes nothing.
    Probe(ProbeArgs),
    /// The CNI plugin in front of both CNIs: what it remembers, the DELs it still has to do, its removal.
    Shim(ShimArgs),
    /// Take one CNI off this node completely, and touch nothing else.
    Cleanup(CleanupArgs),
    /// Say what is wrong with this node's network, what it causes and what mends it; changes nothing.
    Doctor(DoctorArgs),
    /// Gather what somebody elsewhere needs to understand this node, without its secrets, as one archive; changes nothing.
    Bundle(BundleArgs),
    /// Put together what `cluster prepare --dry-run` and the nodes' `preflight` found, as one table. Exit 0 when every node
    /// may be switched, else 3.
    Report(ReportArgs),
    /// The cluster's side; needs an admin kubeconfig.
    Cluster(crate::cluster::ClusterArgs),
    /// Print what a shell needs to complete this command line.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// What a shell needs to complete the command line.
pub fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "nodectl", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// What a switch is asked to be.
#[derive(Debug, Clone, Default, Args)]
pub struct Switch {
    /// The CNI that the node is to be on; calico by default.
    #[arg(long, value_enum)]
    pub to: Option<Cni>,
    /// What happens to the node's pods; drain by default.
    #[arg(long, value_enum)]
    pub strategy: Option<Strategy>,
    /// Accept that this preflight check fails; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub ignore: Vec<String>,
    /// Evict pods that no controller will re-create.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub force: Option<bool>,
    /// Evict pods that use emptyDir; their data is lost.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub delete_emptydir_data: Option<bool>,
    /// How long eviction may take, disruption budgets included, in seconds or as 90s, 15m; 300 by default.
    #[arg(long, visible_alias = "timeout", value_name = "SECONDS", value_parser = crate::clock::seconds)]
    pub drain_timeout: Option<u64>,
    /// Grace period of evicted pods in seconds; their own by default.
    #[arg(long, value_name = "SECONDS")]
    pub grace_period: Option<u32>,
    /// As `kubectl drain` has it; here DaemonSets' pods are never evicted, with or without it.
    #[arg(long, hide = true)]
    pub ignore_daemonsets: bool,
    /// How long an agent may take to leave or to come, in seconds or as 90s, 15m; 300 by default.
    #[arg(long, value_name = "SECONDS", value_parser = crate::clock::seconds)]
    pub agent_timeout: Option<u64>,
    /// What happens to pods that cannot be re-plumbed while they run (strategy in-place); refuse by default.
    #[arg(long, value_enum)]
    pub unadoptable: Option<Unadoptable>,
    /// Take the node back if a pod that is re-plumbed is cut off for longer, in milliseconds: a silence in which a question was
    /// lost (strategy in-place).
    #[arg(long, value_name = "MS")]
    pub max_outage: Option<u64>,
    /// What is watched.
    #[command(flatten)]
    pub probe: ProbeFlags,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The switch.
    #[command(flatten)]
    pub switch: Switch,
    /// Save the plan, to be applied with `migrate --plan`.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Exit 2 where changes are pending.
    #[arg(long)]
    pub detailed_exitcode: bool,
}

/// What a run that changes the node takes.
#[derive(Debug, Clone, Default, Args)]
pub struct RunArgs {
    /// Do not ask.
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Why; goes into the journal and the report.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Begin no switch that cannot end by then, and undo what is not finished: a time (RFC 3339) or a duration (`15m`).
    #[arg(long, value_name = "TIME")]
    pub deadline: Option<String>,
    /// Leave a failed run as it stands instead of taking it back.
    #[arg(long)]
    pub no_auto_revert: bool,
    /// What SIGTERM and Ctrl-C do after the current step. A shutdown always leaves the run to the units of the next boot.
    #[arg(long, value_enum, default_value_t)]
    pub on_stop: OnStop,
}

/// What a stopped run does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnStop {
    /// Take it back.
    #[default]
    Revert,
    /// Leave it open for `nodectl resume`.
    Resume,
}

/// Arguments of `migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// The switch.
    #[command(flatten)]
    pub switch: Switch,
    /// The run.
    #[command(flatten)]
    pub run: RunArgs,
    /// Apply this saved plan exactly, or refuse if the node has drifted.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["to", "strategy", "ignore", "force", "delete_emptydir_data",
        "drain_timeout", "grace_period", "agent_timeout", "unadoptable", "max_outage", "probe_from", "probe_to", "probe_refuse"])]
    pub plan: Option<PathBuf>,
    /// Show the plan and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Where the roll has a pace (`cluster prepare --pace`, `cluster pause`): wait until this node is allowed to begin.
    #[arg(long)]
    pub when_allowed: bool,
    /// Take the switch back by itself unless `nodectl confirm` is run within so long of its beginning (`15m`), and also if the
    /// machine reboots before. Needs systemd, and neither SSH, kubelet nor the API server.
    #[arg(long, value_name = "DURATION", value_parser = crate::clock::duration)]
    pub confirm_timeout: Option<Duration>,
}

/// Arguments of `confirm`.
#[derive(Debug, Args)]
pub struct ConfirmArgs {
    /// The run that is meant; without it, the open one.
    #[arg(value_name = "RUN")]
    pub run: Option<String>,
}

/// Arguments of `revert`.
#[derive(Debug, Args)]
pub struct RevertArgs {
    /// The run.
    #[command(flatten)]
    pub run: RunArgs,
    /// What happens to pods, where a closed run is reverted; drain by default.
    #[arg(long, value_enum)]
    pub strategy: Option<Strategy>,
    /// What happens to pods that cannot be re-plumbed while they run (strategy in-place); refuse by default.
    #[arg(long, value_enum)]
    pub unadoptable: Option<Unadoptable>,
    /// Give the way back of a closed run up if a pod is cut off for longer, in milliseconds; as with migrate.
    #[arg(long, value_name = "MS")]
    pub max_outage: Option<u64>,
    /// What is watched.
    #[command(flatten)]
    pub probe: ProbeFlags,
    /// Evict pods that no controller will re-create.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub force: Option<bool>,
    /// Evict pods that use emptyDir; their data is lost.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub delete_emptydir_data: Option<bool>,
    /// Accept that this preflight check fails; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub ignore: Vec<String>,
    /// Stop a migrate that runs right now, then revert.
    #[arg(long)]
    pub take_over: bool,
    /// Only where the open run was to be confirmed, and was not: what the dead-man timer's unit asks for.
    #[arg(long, hide = true)]
    pub unconfirmed: bool,
    /// Show what would be taken back and change nothing.
    #[arg(long, conflicts_with = "take_over")]
    pub dry_run: bool,
}

/// Arguments of `resume`.
#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// The run.
    #[command(flatten)]
    pub run: RunArgs,
    /// At boot: `files` before kubelet starts (edits files only), `settle` once the network is up.
    #[arg(long, value_enum, value_name = "PHASE", hide = true)]
    pub at_boot: Option<BootPhase>,
}

/// Arguments of `shim`.
#[derive(Debug, Args)]
pub struct ShimArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ShimCommand,
}

/// The commands about the shim.
#[derive(Debug, Subcommand)]
pub enum ShimCommand {
    /// Show where new pods go, what the shim remembers, what it still has to do and what still needs it.
    Status,
    /// Finish the DELs that failed, and those of sandboxes that the runtime has forgotten.
    Reap {
        /// Leave the records of forgotten sandboxes alone that are younger than this: a runtime lists a sandbox only when
        /// all of it has started.
        #[arg(long, value_name = "SECONDS", default_value_t = 600)]
        older_than: u64,
    },
    /// Put the packaged plugin in the place of the one that the runtime calls; installing a package does not.
    Upgrade {
        /// Say what would be done and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Take the shim away, where nothing needs it any more.
    Retire(RetireArgs),
}

/// Arguments of `shim retire`.
#[derive(Debug, Args)]
pub struct RetireArgs {
    /// The run.
    #[command(flatten)]
    pub run: RunArgs,
    /// Show the plan and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// With --dry-run: exit 2 where the shim would be taken away.
    #[arg(long, requires = "dry_run")]
    pub detailed_exitcode: bool,
}

/// Arguments of `cleanup`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("cni").required(true).args(["calico", "flannel"]))]
pub struct CleanupArgs {
    /// Take Calico off.
    #[arg(long)]
    pub calico: bool,
    /// Take flannel off.
    #[arg(long)]
    pub flannel: bool,
    /// Show what would go, with the evidence, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// With --dry-run: exit 2 where something would go.
    #[arg(long, requires = "dry_run")]
    pub detailed_exitcode: bool,
    /// Do not ask.
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Delete files instead of moving them to a backup.
    #[arg(long)]
    pub purge: bool,
    /// Go on in spite of this refusal; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub force: Vec<String>,
    /// A pod network of this CNI, where nothing on the node tells it any more; may be repeated.
    #[arg(long, value_name = "CIDR")]
    pub network: Vec<ipnet::IpNet>,
    /// This node's part of the pod network, likewise.
    #[arg(long, value_name = "CIDR")]
    pub subnet: Vec<ipnet::IpNet>,
    /// Another name of this CNI's network (`name` in its configuration); may be repeated.
    #[arg(long, value_name = "NAME")]
    pub network_name: Vec<String>,
    /// Another prefix of Calico's interfaces; may be repeated.
    #[arg(long, value_name = "PREFIX")]
    pub interface_prefix: Vec<String>,
    /// Why; goes into the record.
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// Arguments of `bundle`.
#[derive(Debug, Args)]
pub struct BundleArgs {
    /// Where to: a file that is not there yet, or - for stdout; nodectl-bundle-NODE-TIME.tar.gz in this folder by default.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// What `nodectl cluster prepare --dry-run --output json` and, on each node, `nodectl preflight --output json` printed.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
}

/// Arguments of `doctor`. Exit codes: 0 clean, 2 findings; with --nagios those of Nagios.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 clean, 2 findings. With --nagios: 0 OK (at most notices), 1 WARNING, 2 CRITICAL, \
    3 UNKNOWN (parts of the node could not be looked at, and nothing else was found)."
)]
pub struct DoctorArgs {
    /// Answer in a line, as plugins of Nagios and its kin do, with their exit codes.
    #[arg(long, conflicts_with = "prometheus")]
    pub nagios: bool,
    /// Answer in Prometheus' text format, for node_exporter's textfile collector.
    #[arg(long)]
    pub prometheus: bool,
    /// Write Prometheus' text format into a file, whole or not at all, for node_exporter's textfile collector: FILE, else
    /// metrics_file of the configuration, else nodectl.prom in the collector's usual folder; where there is none, nothing. Exit 0
    /// also with findings.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["nagios", "prometheus"])]
    pub textfile: Option<Option<PathBuf>>,
    /// Ask no peer whether it answers.
    #[arg(long)]
    pub no_probe: bool,
}

/// The two boot-time units' work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BootPhase {
    /// Before kubelet: files only.
    Files,
    /// After the network is up: what is owed, and the run's end.
    Settle,
}
