//! Bytes of both binaries: nodectl beside what it may be, the shim beside a plugin that is read for every pod just as it is.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::figure::Figure;
use crate::cluster::Options;

/// What nodectl may be, so that it is copied to a node in a moment.
const LIMIT: f64 = 10e6;

/// On the machine.
pub(super) fn run() -> Result<Vec<Figure>> {
    let options = Options::default();
    let portmap = options.plugin("portmap").context("portmap is missing. To fix it: run tests/provision")?;
    let figure = |name: &str, path: Option<PathBuf>, against: &str, other: f64| {
        let path = path.with_context(|| format!("{name} is not built. To fix it: run tests/bench, which builds it"))?;
        Figure::new(name, "bytes", &[bytes(&path)?], against, &[other])
    };
    let shim = figure("cni-shim", options.shim, "Debian's portmap plugin", bytes(&portmap)?)?;
    Ok(vec![figure("nodectl", options.nodectl, "its limit", LIMIT)?, shim])
}

/// Exact for files of any size that a disk holds.
#[allow(clippy::cast_precision_loss, reason = "a binary has far fewer than 2^52 bytes")]
fn bytes(path: &Path) -> Result<f64> {
    Ok(std::fs::metadata(path).with_context(|| format!("{} could not be read", path.display()))?.len() as f64)
}
