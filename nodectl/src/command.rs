//! The commands: from raw arguments to a result. One file a command.

mod bundle;
mod cleanup;
mod completions;
mod confirm;
mod doctor;
mod fitting;
mod history;
mod look;
mod migrate;
mod pace;
mod plan;
mod preflight;
mod probe;
mod report;
mod resume;
mod revert;
mod settings;
mod shim;
mod status;

use anyhow::Result;

pub use self::settings::Settings;
use crate::cli::{Cli, Command, ShimCommand};
use crate::failure::Failure;

/// Runs the command; the exit code where it did not fail.
pub fn run(cli: &Cli, settings: &Settings) -> Result<u8> {
    settings.accept(&cli.command)?;
    if changes(&cli.command) && !nix::unistd::geteuid().is_root() {
        let why =
            "this changes the node, and nodectl does not run as root; nothing was changed. To fix it: run it with sudo";
        return Err(Failure::Refused(why.into()).into());
    }
    let host = settings.host(cli);
    match &cli.command {
        Command::Preflight(args) => preflight::run(&host, args, settings),
        Command::Plan(args) => plan::run(&host, args, settings),
        Command::Migrate(args) => migrate::run(&host, args, settings),
        Command::Revert(args) => revert::run(&host, args, settings),
        Command::Resume(args) => resume::run(&host, args, settings),
        Command::Confirm(args) => confirm::run(&host, args, settings),
        Command::Status => status::run(&host, settings),
        Command::History => history::run(&host, settings),
        Command::Probe(args) => probe::run(&host, args, settings),
        Command::Shim(args) => shim::run(&host, args, settings),
        Command::Cleanup(args) => cleanup::run(&host, args, cli.common.verbose > 0, settings),
        Command::Doctor(args) => doctor::run(&host, args, settings),
        Command::Bundle(args) => bundle::run(&host, args, settings),
        Command::Report(args) => report::run(args, settings),
        Command::Cluster(args) => crate::cluster::run(args, &settings.config.cluster, settings.output),
        Command::Completions { shell } => completions::run(*shell, settings),
    }
}

/// Whether the command changes this node. Those of the cluster's side change none.
fn changes(command: &Command) -> bool {
    match command {
        Command::Migrate(args) => !args.dry_run,
        Command::Revert(_) | Command::Resume(_) | Command::Confirm(_) => true,
        Command::Cleanup(args) => !args.dry_run,
        Command::Shim(args) => match &args.command {
            ShimCommand::Status => false,
            ShimCommand::Reap { .. } => true,
            ShimCommand::Upgrade { dry_run } => !dry_run,
            ShimCommand::Retire(args) => !args.dry_run,
        },
        _ => false,
    }
}
