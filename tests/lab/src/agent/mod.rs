//! What the stand-ins for flanneld and calico-node have in common: the API as they use it, links, waiting, health answers.

pub mod api;
pub mod condition;
pub mod connection;
pub mod family;
pub mod health;
pub mod kubeconfig;
pub mod links;
#[cfg(test)]
pub mod memory;
pub mod stop;
pub mod watch;

pub use connection::{connect, connect_with};

use std::path::Path;

use anyhow::{Context, Result};

/// Says what a stand-in does on standard error, as the real program's log would.
pub fn log(program: &str, text: &str) {
    eprintln!("{program}: {text}");
}

/// The value of an environment variable, if it is set and not empty.
pub fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where this is, on a node whose processor is emulated, the stand-ins look at things less often, which is a good part of their work:
/// no more often than the real ones, or a few times a second where those are told.
pub const UNHURRIED: &str = "/etc/kubernetes/lab/unhurried";

/// True on a node whose processor is emulated.
pub fn is_unhurried() -> bool {
    std::path::Path::new(UNHURRIED).exists()
}

/// A number from the environment, or `default`.
pub fn env_number(name: &str, default: u64) -> Result<u64> {
    match env(name) {
        None => Ok(default),
        Some(text) => text.parse().with_context(|| {
            format!("the environment variable {name} is {text:?}. To fix it: set it to a whole number")
        }),
    }
}

/// The name of the Node that a program runs on, as a DaemonSet's environment says it, else the host's name.
pub fn node_name() -> Result<String> {
    if let Some(name) = ["NODE_NAME", "NODENAME", "KUBERNETES_NODE_NAME"].into_iter().find_map(env) {
        return Ok(name);
    }
    let host = nix::unistd::gethostname().context("the host's name could not be read")?;
    Ok(host.to_string_lossy().to_lowercase())
}

/// Writes a file through a temporary neighbour and a rename, so that a reader sees the old text or the new, never half.
pub fn write_by_rename(path: &Path, contents: &[u8], mode: u32) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let directory = path.parent().with_context(|| format!("{} has no directory", path.display()))?;
    std::fs::create_dir_all(directory).with_context(|| format!("{} could not be created", directory.display()))?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = directory.join(format!(".{name}.{}", std::process::id()));
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| file.write_all(contents))
        .and_then(|()| std::fs::rename(&temporary, path));
    written.with_context(|| format!("{} could not be written", path.display()))
}

/// Sets a sysctl given as a path below /proc/sys; answers whether it could.
pub fn set_sysctl(path: &str, value: &str) -> bool {
    std::fs::write(format!("/proc/sys/{path}"), value).is_ok()
}
