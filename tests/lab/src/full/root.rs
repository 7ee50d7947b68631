//! The root file system that all full nodes of the machine share, built once by `rootfs/build`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The script that builds it. It prints the folder's name, and builds only what is not there.
const BUILD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/rootfs/build");

/// The folder with the root file system; it is built first where it is missing, which takes about a minute.
pub fn folder() -> Result<PathBuf> {
    let result = Command::new(BUILD)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{BUILD} could not be started"))?;
    let answer = String::from_utf8_lossy(&result.stdout);
    let folder = Path::new(answer.trim());
    if !result.status.success() || !folder.is_dir() {
        bail!("the root file system of full nodes could not be built. To fix it: run {BUILD} and see what it says");
    }
    Ok(folder.to_owned())
}
