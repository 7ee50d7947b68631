//! The commands: from raw arguments to a result. One file a command.

mod cleanup;
mod completions;
mod doctor;
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
use crate::cli::{Cli, Command};

/// Runs the command; the exit code where it did not fail.
pub fn run(cli: &Cli, settings: &Settings) -> Result<u8> {
    settings.accept(&cli.command)?;
    let host = settings.host(cli);
    match &cli.command {
        Command::Preflight(args) => preflight::run(&host, args, settings),
        Command::Plan(args) => plan::run(&host, args, settings),
        Command::Migrate(args) => migrate::run(&host, args, settings),
        Command::Revert(args) => revert::run(&host, args, settings),
        Command::Resume(args) => resume::run(&host, args, settings),
        Command::Status => status::run(&host, settings),
        Command::History => history::run(&host, settings),
        Command::Probe(args) => probe::run(&host, args, settings),
        Command::Shim(args) => shim::run(&host, args, settings),
        Command::Cleanup(args) => cleanup::run(&host, args, cli.common.verbose > 0, settings),
        Command::Doctor(args) => doctor::run(&host, args, settings),
        Command::Report(args) => report::run(args, settings),
        Command::Cluster(args) => crate::cluster::run(args, &settings.config.cluster, settings.output),
        Command::Completions { shell } => completions::run(*shell, settings),
    }
}
