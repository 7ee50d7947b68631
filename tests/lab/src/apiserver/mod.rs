//! The stand-in for kube-apiserver: an object store behind the real one's HTTP interface, with its refusals.

use std::process::ExitCode;

/// `nodectl-lab apiserver`.
pub fn main(_args: &[String]) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
