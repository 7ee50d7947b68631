//! What a probe is asked for: by itself, and by a switch.

use clap::Args;

use crate::probe::target;

/// What a switch in place watches besides the pods that it re-plumbs, as `nodectl probe` takes it.
#[derive(Debug, Clone, Default, Args)]
pub struct ProbeFlags {
    /// Watch flows from here too (strategy in-place): host (the default), NAMESPACE/POD of this node, or all; may be repeated.
    #[arg(long, value_name = "SOURCE")]
    pub probe_from: Vec<String>,
    /// Watch that this target of `nodectl probe` answers throughout (strategy in-place): one that does not before anything is
    /// changed, or is silent for longer than --max-outage, takes the node back; may be repeated.
    #[arg(long, value_name = "[SOURCE=]TARGET", value_parser = target::checked)]
    pub probe_to: Vec<String>,
    /// Watch that this target does not answer, since a network policy forbids it (strategy in-place); what answers is named in
    /// the report, and takes nothing back; may be repeated.
    #[arg(long, value_name = "[SOURCE=]TARGET", value_parser = target::checked)]
    pub probe_refuse: Vec<String>,
}

/// Arguments of `probe`.
#[derive(Debug, Args)]
#[command(
    after_help = "TARGET: peers, gateway, icmp:ADDRESS, udp:ADDRESS:PORT, tcp:ADDRESS:PORT (one connection that stays), \
    connect:ADDRESS:PORT (a new one each time). NAMESPACE/POD of this node may stand for ADDRESS; with udp and tcp the port may \
    then be left out, and the probe answers itself. udp and tcp want an echo at the other end (elsewhere: nodectl probe --answer). \
    SOURCE= before it: from there alone.\n\n\
    Exit code 1 where a flow did what it was not to do."
)]
pub struct ProbeArgs {
    /// Where to start: host (the default), NAMESPACE/POD of this node, or all; may be repeated.
    #[arg(long, value_name = "SOURCE")]
    pub from: Vec<String>,
    /// What is to answer; may be repeated. Without it and --refuse: peers and gateway.
    #[arg(long, value_name = "[SOURCE=]TARGET", value_parser = target::checked)]
    pub to: Vec<String>,
    /// What must not answer, since a network policy forbids it; may be repeated.
    #[arg(long, value_name = "[SOURCE=]TARGET", value_parser = target::checked)]
    pub refuse: Vec<String>,
    /// Questions a second, of each flow.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rate: u32,
    /// How long, in seconds; Ctrl-C ends it earlier.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub duration: u64,
    /// A flow that is to pass may be cut off for so many milliseconds: a silence in which a question was lost, with tcp any.
    #[arg(long, value_name = "MS")]
    pub max_outage: Option<u64>,
    /// Meanwhile, answer UDP and TCP on this port in every source's network, for probes from elsewhere.
    #[arg(long, value_name = "PORT")]
    pub answer: Option<u16>,
}
