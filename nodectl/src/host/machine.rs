//! The machine's identity.

use std::path::Path;

use anyhow::{Context, Result};

use crate::facts::Machine;
use crate::host::files;

/// Identity of this boot: everything the kernel held before another one is gone.
pub fn boot_id() -> Result<String> {
    read("/proc/sys/kernel/random/boot_id")
}

/// Kernel release, as in `uname -r`.
pub fn kernel() -> Result<String> {
    read("/proc/sys/kernel/osrelease")
}

/// Host name.
pub fn hostname() -> Result<String> {
    read("/proc/sys/kernel/hostname")
}

/// The machine, with the room in `directories` (absolute paths as seen from here, and the name to report each under).
pub fn observe(directories: &[(String, std::path::PathBuf)]) -> Result<Machine> {
    let mut machine = Machine {
        hostname: hostname()?,
        kernel: kernel()?,
        boot_id: boot_id()?,
        uid: nix::unistd::geteuid().as_raw(),
        ..Machine::default()
    };
    for (name, path) in directories {
        match files::free_bytes(path) {
            Ok(bytes) => {
                machine.free_bytes.insert(name.clone(), bytes);
            }
            Err(error) => {
                machine.unwritable.insert(name.clone(), format!("{error:#}"));
            }
        }
        if let Err(error) = files::writable(path) {
            machine.unwritable.insert(name.clone(), format!("{error:#}"));
        }
    }
    Ok(machine)
}

fn read(path: &str) -> Result<String> {
    let text = std::fs::read_to_string(Path::new(path)).with_context(|| format!("could not read {path}"))?;
    Ok(text.trim().to_owned())
}
