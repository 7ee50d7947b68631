//! A full node's disk: its own layer over the shared ones, and what is written to it before the first boot.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use sha2::{Digest, Sha256};

use crate::node::Spec;

/// Where the launcher sees the node's root; mounted in its own mount namespace only.
pub fn root(spec: &Spec) -> PathBuf {
    spec.folder.join("root")
}

/// What the node sees as /var/lib/containerd: beside the overlay, as containerd's own overlays cannot lie on another one.
pub fn containerd(spec: &Spec) -> PathBuf {
    spec.folder.join("disk/containerd")
}

/// Mounts the node's root; `layers` are the shared ones, best first. Before the first boot also writes the files of its own.
pub fn set_up(spec: &Spec, layers: &[PathBuf]) -> Result<()> {
    let disk = spec.folder.join("disk");
    let (upper, work, root) = (disk.join("upper"), disk.join("work"), root(spec));
    for folder in [&upper, &work, &root, &containerd(spec)] {
        fs::create_dir_all(folder).with_context(|| format!("the folder {} could not be made", folder.display()))?;
    }
    let lower: Vec<String> = layers.iter().map(|layer| layer.display().to_string()).collect();
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), upper.display(), work.display());
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .with_context(|| format!("the node's root could not be mounted ({options})"))?;
    let installed = disk.join("installed");
    if !installed.exists() {
        install(spec, &root)?;
        fs::write(&installed, "").context("the first boot could not be noted")?;
    }
    Ok(())
}

/// Writes what differs from node to node.
fn install(spec: &Spec, root: &Path) -> Result<()> {
    let digest = Sha256::digest(spec.folder.as_os_str().as_encoded_bytes());
    let machine_id: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let name = &spec.name;
    // With a machine id it is no first boot to systemd, which would enable every unit that has an [Install] section.
    write(root, "/etc/machine-id", &format!("{machine_id}\n"), 0o444)?;
    write(root, "/etc/hostname", &format!("{name}\n"), 0o644)?;
    write(root, "/etc/hosts", &format!("127.0.0.1 localhost\n{} {name}\n", spec.address), 0o644)?;
    write(root, "/etc/resolv.conf", "", 0o644)?;
    // Most of these are secrets.
    spec.files.iter().try_for_each(|(path, text)| write(root, path, text, 0o600))
}

/// Writes a file of the node, and its folders.
fn write(root: &Path, path: &str, text: &str, mode: u32) -> Result<()> {
    let target = root.join(path.trim_start_matches('/'));
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).with_context(|| format!("the folder of {path} could not be made"))?;
    }
    fs::write(&target, text)
        .and_then(|()| fs::set_permissions(&target, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("{path} could not be written on {}", root.display()))
}
