//! What a cluster adds to the machine's root file system for its full nodes: the programs under test, the lab's own, units and settings.
//!
//! A second lower layer under each node's own, so that these are ordinary files to the node: a package may replace them, `nodectl` may copy them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::images;
use crate::command;
use crate::node::Spec;

/// Files that are the same on all full nodes: (path in the node, text).
const FILES: [(&str, &str); 11] = [
    ("etc/containerd/config.toml", include_str!("../../rootfs/containerd.toml")),
    ("etc/systemd/system.conf.d/lab.conf", include_str!("../../rootfs/units/lab.conf")),
    ("usr/lib/systemd/system/kubelet.service", include_str!("../../rootfs/units/kubelet.service")),
    ("usr/lib/systemd/system/lab-images.service", include_str!("../../rootfs/units/lab-images.service")),
    ("usr/lib/systemd/system/nodectl-boot.service", include_str!("../../../../systemd/nodectl-boot.service")),
    ("usr/lib/systemd/system/nodectl-settle.service", include_str!("../../../../systemd/nodectl-settle.service")),
    ("usr/lib/systemd/system/cni-migrate.service", include_str!("../../../../systemd/cni-migrate.service")),
    ("usr/lib/systemd/system/nodectl-deadman.service", include_str!("../../../../systemd/nodectl-deadman.service")),
    ("usr/lib/systemd/catalog/nodectl.catalog", include_str!("../../../../systemd/nodectl.catalog")),
    ("usr/lib/systemd/system/nodectl-reap.service", include_str!("../../../../systemd/nodectl-reap.service")),
    ("usr/lib/systemd/system/nodectl-reap.timer", include_str!("../../../../systemd/nodectl-reap.timer")),
];
/// Units that are enabled from the start; nodectl's own are enabled by its runs.
const ENABLED: [&str; 2] = ["kubelet.service", "lab-images.service"];
/// Units of the packages that a node has no use for, or that would touch what belongs to the machine.
const MASKED: [&str; 6] = [
    "cni-dhcp.service",
    "cni-dhcp.socket",
    "dev-hugepages.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-firstboot.service",
];
/// Folders that every node has from its first boot on.
const FOLDERS: [&str; 5] =
    ["etc/cni/net.d", "etc/kubernetes/manifests", "opt/cni/bin", "var/lib/cni", "var/lib/kubelet/pki"];

/// The layer of the cluster that `spec` belongs to; made when its first full node is described.
pub fn of(spec: &Spec) -> Result<PathBuf> {
    let cluster = spec.folder.parent().context("the node's folder is in no cluster's")?;
    let layer = cluster.join("full-layer");
    if !layer.exists() {
        let half = cluster.join("full-layer.half");
        fill(spec, &half).context("the layer of the full nodes could not be made")?;
        fs::rename(&half, &layer).context("the layer of the full nodes could not be finished")?;
    }
    Ok(layer)
}

/// Fills a new layer.
fn fill(spec: &Spec, layer: &Path) -> Result<()> {
    for folder in FOLDERS {
        make_dir(&layer.join(folder))?;
    }
    for (path, text) in FILES {
        write(&layer.join(path), text)?;
    }
    for (program, target) in &spec.binds {
        copy_program(program, &inside(layer, target))?;
    }
    link("../bin/nodectl-lab", &layer.join("usr/local/sbin/lab-runc"))?;
    for unit in ENABLED {
        let place = layer.join("etc/systemd/system/multi-user.target.wants").join(unit);
        link(&format!("/usr/lib/systemd/system/{unit}"), &place)?;
    }
    for unit in MASKED {
        link("/dev/null", &layer.join("etc/systemd/system").join(unit))?;
    }
    copy_tree(&spec.opt, &layer.join("opt"))?;
    let archive = layer.join("usr/local/share/nodectl-lab/images.tar");
    archive.parent().map_or(Ok(()), make_dir)?;
    images::write(layer, &archive)
}

/// A node's path as a path of the layer.
fn inside(layer: &Path, path: &Path) -> PathBuf {
    layer.join(path.strip_prefix("/").unwrap_or(path))
}

/// Copies a program without what only a debugger needs: it is most of the file, and the lab's disks are memory.
fn copy_program(from: &Path, to: &Path) -> Result<()> {
    to.parent().map_or(Ok(()), make_dir)?;
    let stripped = command::output(Command::new("strip").arg("--strip-debug").arg("-o").arg(to).arg(from), "");
    if !stripped.is_ok_and(|result| result.ok()) {
        // No binutils here, or not an ELF file: as it is, then.
        fs::copy(from, to).with_context(|| format!("{} could not be copied to {}", from.display(), to.display()))?;
    }
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("{} could not be made a program", to.display()))
}

/// Copies a folder's files and folders.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    make_dir(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("{} could not be read", from.display()))? {
        let entry = entry.with_context(|| format!("{} could not be read", from.display()))?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)
                .with_context(|| format!("{} could not be copied", entry.path().display()))?;
        }
    }
    Ok(())
}

/// Makes a link.
fn link(target: &str, place: &Path) -> Result<()> {
    place.parent().map_or(Ok(()), make_dir)?;
    symlink(target, place).with_context(|| format!("the link {} could not be made", place.display()))
}

/// Writes a file and its folders.
fn write(path: &Path, text: &str) -> Result<()> {
    path.parent().map_or(Ok(()), make_dir)?;
    fs::write(path, text).with_context(|| format!("{} could not be written", path.display()))
}

/// Makes a folder and its parents.
fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("the folder {} could not be made", path.display()))
}
