//! Kernel parameters under /proc/sys.
//!
//! Names are dotted as sysctl(8) writes them: a dot that belongs to an interface's name stands as a slash
//! (`net.ipv4.conf.flannel/1.rp_filter`). Those under `net` are of the calling thread's network namespace.

use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::fault;

/// The name of a parameter of an interface, e.g. `("ipv4", "flannel.1", "rp_filter")`.
pub fn of_interface(family: &str, interface: &str, parameter: &str) -> String {
    format!("net.{family}.conf.{}.{parameter}", interface.replace('.', "/"))
}

/// The value; `None` where the kernel has no such parameter.
pub fn read(name: &str) -> Result<Option<String>> {
    match std::fs::read_to_string(path(name)) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e).with_context(|| format!("could not read the sysctl {name}")),
    }
}

/// Sets the value.
pub fn write(name: &str, value: &str) -> Result<()> {
    fault::point("sysctl.write");
    std::fs::write(path(name), value).with_context(|| format!("could not set the sysctl {name} to {value}"))
}

/// Sets the value unless it is set already; returns what it was.
pub fn ensure(name: &str, value: &str) -> Result<Option<String>> {
    let before = read(name)?;
    if before.as_deref() != Some(value) {
        write(name, value)?;
    }
    Ok(before)
}

fn path(name: &str) -> PathBuf {
    let slashed = name.find(['.', '/']).is_some_and(|i| name.as_bytes()[i] == b'/');
    let relative: String = match slashed {
        true => name.to_owned(),
        false => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
    };
    PathBuf::from("/proc/sys").join(relative.trim_start_matches('/'))
}
