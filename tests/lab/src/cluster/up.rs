//! A cluster to play with: it stays until standard input ends.

use std::io::Read;
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::{Cluster, Options};
use crate::node::Kind;

/// The program `up [NODES] [--bare] [--full] [--dual-stack] [--canal]`: boots nodes and prints how to enter them.
pub fn main(arguments: &[String]) -> Result<ExitCode> {
    let mut options = Options { api: !arguments.iter().any(|word| word == "--bare"), ..Options::default() };
    if let Some(word) = arguments.iter().find(|word| !word.starts_with('-')) {
        options.nodes = word.parse().with_context(|| format!("{word} is no number of nodes"))?;
    }
    if arguments.iter().any(|word| word == "--full") {
        options.kinds = vec![Kind::Full; usize::from(options.nodes)];
    }
    if arguments.iter().any(|word| word == "--dual-stack") {
        options.dual_stack();
    }
    if arguments.iter().any(|word| word == "--canal") {
        options.canal();
    }
    let cluster = Cluster::start(options)?;
    eprintln!("the cluster's folder: {}", cluster.folder().display());
    for node in cluster.nodes() {
        eprintln!("{}: nsenter -t {} -m -n -p -u -i --wdns=/ -- bash", node.name(), node.pid()?);
    }
    if let Ok(api) = cluster.api() {
        eprintln!("the administrator's kubeconfig: {}", api.admin_file().display());
    }
    eprintln!("it ends with this program's standard input (Ctrl-D)");
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).context("standard input could not be read")?;
    Ok(ExitCode::SUCCESS)
}
