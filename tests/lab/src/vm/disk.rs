//! The disks of nodes that are machines: ext4, with all that is on them from the start.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::command;
use crate::full::{disk as layered, layers};
use crate::node::Spec;

/// Where a light node's machine mounts its disk.
pub(super) const DISK: &str = "/disk";
/// What a full node has on a machine only: the program that runs the lab's scripts, its network, its modules.
const MACHINE: [(&str, &str); 4] = [
    ("usr/local/sbin/lab-agent", include_str!("../../vm/agent")),
    ("usr/lib/systemd/system/lab-agent.service", include_str!("../../rootfs/units/lab-agent.service")),
    ("usr/lib/systemd/system/lab-network.service", include_str!("../../rootfs/units/lab-network.service")),
    ("etc/modules-load.d/lab.conf", "virtio_net\noverlay\nbr_netfilter\n"),
];

/// Makes a light node's disk: the description as the node's own launcher reads it in the machine, and what it shows to the node.
pub(super) fn light(spec: &Spec, disk: &Path) -> Result<()> {
    let staged = spec.folder.join("staged");
    let mut inside = spec.clone();
    inside.folder = Path::new(DISK).join("node");
    inside.opt = Path::new(DISK).join("opt");
    copy_tree(&spec.opt, &staged.join("opt"))?;
    for (from, to) in &mut inside.binds {
        let name = format!("programs{}", to.display());
        let target = staged.join(&name);
        fs::create_dir_all(target.parent().unwrap_or(&staged)).context("the disk could not be staged")?;
        // Without their line tables they are a third as big.
        let argv = ["strip".as_ref(), "-o".as_ref(), target.as_os_str(), from.as_os_str()];
        command::run(&argv)?;
        *from = Path::new(DISK).join(name);
    }
    let node = staged.join("node");
    fs::create_dir_all(&node).context("the disk could not be staged")?;
    fs::write(node.join("spec.json"), serde_json::to_vec(&inside)?).context("the description could not be staged")?;
    format(&staged, disk, "1G")?;
    fs::remove_dir_all(&staged).context("what was staged could not be removed")
}

/// Makes a full node's disk: what a booted container has as its root, the kernel's modules, and what makes it a machine of the lab.
pub(super) fn full(spec: &Spec, disk: &Path, modules: &Path) -> Result<()> {
    // Its root is an overlay, which nobody else need see.
    unshare(CloneFlags::CLONE_NEWNS).context("a new mount namespace was refused. To fix it: run as root")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("the mounts could not be made private")?;
    layered::set_up(spec, &layers(spec)?)?;
    let root = layered::root(spec);
    copy_tree(modules, &root.join("usr/lib/modules"))?;
    for (path, text) in MACHINE {
        write(&root.join(path), text)?;
    }
    write(&root.join("etc/kubernetes/lab/spec.json"), &serde_json::to_string(spec)?)?;
    for unit in ["lab-agent.service", "lab-network.service"] {
        let place = root.join("etc/systemd/system/multi-user.target.wants").join(unit);
        symlink(format!("/usr/lib/systemd/system/{unit}"), &place)
            .with_context(|| format!("the link {} could not be made", place.display()))?;
    }
    format(&root, disk, "3G")?;
    umount2(&root, MntFlags::MNT_DETACH).context("what the disk was made from could not be unmounted")?;
    fs::remove_dir_all(spec.folder.join("disk")).context("what the disk was made from could not be removed")
}

/// Makes a disk with what is in the folder; its file is as big as that.
fn format(folder: &Path, disk: &Path, size: &str) -> Result<()> {
    let half = disk.with_extension("half");
    let options = ["mke2fs", "-q", "-t", "ext4", "-d"].map(PathBuf::from);
    command::run(&[&options[..], &[folder.to_owned(), half.clone(), size.into()]].concat())?;
    fs::rename(&half, disk).context("the disk could not be put in its place")
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("{} could not be made", to.display()))?;
    command::run(&[PathBuf::from("cp"), "-rT".into(), from.into(), to.into()]).map(drop)
}

/// Writes a file and its folders.
fn write(path: &Path, text: &str) -> Result<()> {
    path.parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(path, text))
        .with_context(|| format!("{} could not be written", path.display()))
}
