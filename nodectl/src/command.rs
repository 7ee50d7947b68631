//! The commands: from raw arguments to a result. One file a command.

mod history;
mod look;
mod migrate;
mod plan;
mod preflight;
mod resume;
mod revert;
mod status;

use anyhow::Result;

use crate::cli::{Cli, Command};
use crate::host::Host;

/// Runs the command; the exit code where it did not fail.
pub fn run(cli: &Cli) -> Result<u8> {
    let host = Host::new(&cli.common.root);
    match &cli.command {
        Command::Preflight(args) => preflight::run(&host, args, &cli.common),
        Command::Plan(args) => plan::run(&host, args, &cli.common),
        Command::Migrate(args) => migrate::run(&host, args, &cli.common),
        Command::Revert(args) => revert::run(&host, args, &cli.common),
        Command::Resume(args) => resume::run(&host, args, &cli.common),
        Command::Status => status::run(&host, &cli.common),
        Command::History => history::run(&host, &cli.common),
        Command::Cluster(args) => crate::cluster::run(args, cli.common.output),
    }
}
