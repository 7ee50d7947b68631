//! What a light node sees of the file system: the machine's, with its own overlays, /run, /proc and /sys.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use sha2::{Digest, Sha256};

use crate::node::Spec;

/// The machine's folders that a node may write to: writes go to the node's disk.
const OVERLAID: [&str; 5] = ["/etc", "/var/lib", "/var/log", "/usr/libexec", "/usr/local"];

/// What the machine may have there of its own, and a new node must not see.
const FOREIGN: [&str; 16] = [
    "/etc/cni",
    "/etc/containerd",
    "/etc/crio",
    "/etc/kubernetes",
    "/etc/nodectl",
    "/etc/systemd/system",
    "/var/lib/calico",
    "/var/lib/cni",
    "/var/lib/cni-shim",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/lib/nodectl",
    "/var/log/calico",
    "/var/log/containers",
    "/var/log/pods",
    "/usr/libexec/nodectl",
];

/// Folders that every node has from its first boot on.
const OWN: [&str; 8] = [
    "/etc/cni/net.d",
    "/etc/kubernetes/manifests",
    "/etc/systemd/system/multi-user.target.wants",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet/pki",
    "/var/log/pods",
    "/opt/cni/bin",
];

/// Makes all mounts of a booting node; on its first boot also clears what the machine had in the overlaid folders.
pub fn set_up(spec: &Spec) -> Result<()> {
    special("proc", "/proc", "")?;
    for path in OVERLAID {
        overlay(spec, Path::new(path), path)?;
    }
    overlay(spec, &spec.opt, "/opt")?;
    let installed = disk(spec).join("installed");
    if !installed.exists() {
        install(spec)?;
        fs::write(&installed, "").context("the first boot could not be noted")?;
    }
    for (from, to) in &spec.binds {
        bind_file(from, to)?;
    }
    special("tmpfs", "/run", "mode=755")?;
    special("tmpfs", "/tmp", "mode=1777")?;
    special("sysfs", "/sys", "")?;
    for path in ["/run/lock", "/run/netns", "/run/dbus", "/run/systemd/system", "/run/containerd"] {
        make_dir(Path::new(path))?;
    }
    read_only_machine()?;
    new_boot_id()?;
    nix::unistd::sethostname(&spec.name).context("the host name could not be set")
}

/// What is not the node's own cannot be written from the node, whatever runs on it.
fn read_only_machine() -> Result<()> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .context("the machine's files could not be made read-only")
}

/// The node's disk: what survives a reboot.
fn disk(spec: &Spec) -> PathBuf {
    spec.folder.join("disk")
}

/// Lays the node's own layer over `lower` and shows it at `target`.
fn overlay(spec: &Spec, lower: &Path, target: &str) -> Result<()> {
    let layer = disk(spec).join(target.trim_start_matches('/').replace('/', "-"));
    let (upper, work) = (layer.join("upper"), layer.join("work"));
    for path in [&upper, &work, &PathBuf::from(target)] {
        make_dir(path)?;
    }
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .with_context(|| format!("the node's layer over {target} could not be mounted ({options})"))
}

/// Mounts a file system without a device.
fn special(kind: &str, target: &str, options: &str) -> Result<()> {
    mount(Some(kind), target, Some(kind), MsFlags::empty(), Some(options))
        .with_context(|| format!("{kind} could not be mounted on the node's {target}"))
}

/// The first boot: nothing of the machine's own cluster is seen, if it has one, and the usual folders are there.
fn install(spec: &Spec) -> Result<()> {
    for path in FOREIGN {
        if fs::symlink_metadata(path).is_ok() {
            fs::remove_dir_all(path)
                .with_context(|| format!("the machine's {path} could not be hidden from the node"))?;
        }
    }
    for path in OWN {
        make_dir(Path::new(path))?;
    }
    let digest = Sha256::digest(spec.folder.as_os_str().as_encoded_bytes());
    let machine_id: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    fs::write("/etc/machine-id", machine_id + "\n").context("/etc/machine-id could not be written")?;
    for unit in ["containerd.service", "kubelet.service"] {
        let link = Path::new("/etc/systemd/system/multi-user.target.wants").join(unit);
        std::os::unix::fs::symlink(Path::new("/lib/systemd/system").join(unit), &link)
            .with_context(|| format!("{} could not be made", link.display()))?;
    }
    spec.files.iter().try_for_each(|(path, text)| write_file(Path::new(path), text))
}

/// Shows a file of the machine under another name.
fn bind_file(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        make_dir(parent)?;
    }
    if !to.exists() {
        fs::write(to, "").with_context(|| format!("{} could not be made", to.display()))?;
    }
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("{} could not be shown as {}", from.display(), to.display()))
}

/// A reboot is told from a restart by the boot id; the machine's own would never change.
fn new_boot_id() -> Result<()> {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").context("no random number for the boot id")?;
    fs::write("/run/boot_id", uuid).context("the boot id could not be written")?;
    bind_file(Path::new("/run/boot_id"), Path::new("/proc/sys/kernel/random/boot_id"))
}

/// Makes a folder and its parents.
fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("the folder {} could not be made", path.display()))
}

/// Writes a file, readable by root alone as most of a node's are secrets, and its folders.
fn write_file(path: &Path, text: &str) -> Result<()> {
    path.parent().map_or(Ok(()), make_dir)?;
    fs::write(path, text).with_context(|| format!("{} could not be written", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("{} could not be protected", path.display()))
}
