//! Kernel modules.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::run::Run;
use crate::fault;

/// Whether a module is loaded, or built in with something to show for it. Never loads it.
pub fn present(name: &str) -> bool {
    Path::new("/sys/module").join(name).exists()
}

/// Whether a module is loaded as such, so that it could be unloaded. A kernel without modules has no list of them.
pub fn loaded(name: &str) -> Result<bool> {
    let modules = match std::fs::read_to_string("/proc/modules") {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        other => other.context("could not read /proc/modules")?,
    };
    Ok(modules.lines().any(|line| line.split(' ').next() == Some(name)))
}

/// Unloads a module; nothing happens where it is not loaded. Unloading `ipip` or `vxlan` takes every device of that kind in
/// every network namespace with it, and the kernel does not object: look first.
pub fn unload(name: &str) -> Result<()> {
    if !loaded(name)? {
        return Ok(());
    }
    fault::point("kmod.unload");
    Run::new("modprobe").args(["-r", name]).timeout(Duration::from_secs(30)).text()?;
    Ok(())
}
