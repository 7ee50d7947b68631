//! The packages of this source, built once by `tests/packages`, and full nodes that they are installed on.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::command;
use crate::node::Node;
use crate::snapshot::Snapshot;

/// The script that builds them. It prints the folder's name, and builds only what is not there.
const BUILD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packages");

/// The packages of one version.
#[derive(Debug, Clone)]
pub struct Packages {
    /// For Debian and its kin.
    pub deb: PathBuf,
    /// For Fedora and its kin.
    pub rpm: PathBuf,
}

impl Packages {
    /// The packages in the folder that LAB_PACKAGES names, else those of this source; these are built first where they are missing,
    /// which takes minutes.
    pub fn under_test() -> Result<Packages> {
        if let Some(folder) = std::env::var_os("LAB_PACKAGES") {
            return Packages::in_folder(Path::new(&folder));
        }
        let result = Command::new(BUILD)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("{BUILD} could not be started"))?;
        if !result.status.success() {
            bail!("the packages could not be built. To fix it: run {BUILD} and see what it says");
        }
        Packages::in_folder(Path::new(String::from_utf8_lossy(&result.stdout).trim()))
    }

    /// The packages in a folder that `packaging/package` has filled.
    pub fn in_folder(folder: &Path) -> Result<Packages> {
        let files = std::fs::read_dir(folder).with_context(|| format!("{} could not be read", folder.display()))?;
        let files: Vec<PathBuf> = files.filter_map(|entry| Some(entry.ok()?.path())).collect();
        let find = |kind: &str| {
            let found = files.iter().find(|file| file.extension().is_some_and(|e| e == kind)).cloned();
            found.with_context(|| format!("there is no .{kind} in {}", folder.display()))
        };
        Ok(Packages { deb: find("deb")?, rpm: find("rpm")? })
    }
}

/// Takes away what the lab puts on full nodes in a package's place: the programs under test and nodectl's units.
pub fn bare(node: &dyn Node) -> Result<()> {
    node.sh(
        "rm -rf /usr/bin/nodectl /usr/libexec/nodectl /usr/lib/systemd/system/nodectl-* /usr/lib/systemd/system/cni-migrate*; \
         systemctl daemon-reload",
    )
    .map(drop)
}

/// Copies a file to a node's /root; answers its path there.
pub fn send(node: &dyn Node, file: &Path) -> Result<String> {
    let name = file.file_name().context("a file has a name")?.to_string_lossy();
    let there = format!("/root/{name}");
    node.send(file, &there)?;
    Ok(there)
}

/// Installs a .deb with the node's own apt.
pub fn install(node: &dyn Node, deb: &Path) -> Result<()> {
    let file = send(node, deb)?;
    node.sh(&format!("DEBIAN_FRONTEND=noninteractive apt-get install -y {file} >/root/apt.log 2>&1 || {{ cat /root/apt.log >&2; exit 1; }}"))
        .map(drop)
}

/// Installs a .deb on a node that was [`bare`], and makes sure that this changes nothing of its network and starts nothing.
pub fn install_quietly(node: &dyn Node, deb: &Path) -> Result<()> {
    let before = Snapshot::take(node)?;
    install(node, deb)?;
    let changed = before.diff(&Snapshot::take(node)?);
    ensure!(changed.is_empty(), "installing changed the network: {changed:#?}");
    must_be_idle(node)?;
    let unit = node.sh("systemctl cat nodectl-boot.service")?;
    ensure!(unit.contains("resume --at-boot files"), "another unit is installed: {unit}");
    node.sh("ls /usr/libexec/nodectl/cni-shim; test ! -e /var/lib/nodectl; test ! -e /opt/cni/bin/cni-shim").map(drop)
}

/// A package of the same content with a later version.
pub fn later(deb: &Path, folder: &Path) -> Result<PathBuf> {
    let (tree, file) = (folder.join("tree"), folder.join("nodectl_later.deb"));
    let (from, tree, to) = (deb.display(), tree.display(), file.display());
    let script = format!(
        "dpkg-deb -R {from} {tree}; sed -i 's/^Version: .*/&+later/' {tree}/DEBIAN/control; dpkg-deb -Zgzip -b {tree} {to}"
    );
    command::run(&["sh", "-ec", &script])?;
    Ok(file)
}

/// An error where a unit of nodectl's is enabled or at work.
pub fn must_be_idle(node: &dyn Node) -> Result<()> {
    let units = node
        .sh("systemctl list-unit-files --no-legend 'nodectl*' 'cni-migrate*' | grep -E ' enabled' || true; \
         systemctl list-units --no-legend 'nodectl*' 'cni-migrate*' || true")?;
    ensure!(units.is_empty(), "units are enabled or at work: {units}");
    Ok(())
}

/// An error unless the package manager refuses to remove the package, and says why.
pub fn must_refuse_to_go(node: &dyn Node, why: &str) -> Result<()> {
    let done = node.exec(&["dpkg", "--remove", "nodectl"])?;
    ensure!(!done.ok() && done.stderr.contains("nothing was changed") && done.stderr.contains(why), "{done:?}");
    node.sh("test -x /usr/bin/nodectl; dpkg-query -W -f '${Status}' nodectl | grep -q installed").map(drop)
}

/// The units as a node may have them: a timer that an administrator enabled, the boot in mid-run that was well, a failure.
const UNITS_AT_WORK: &str = "systemctl enable --now nodectl-reap.timer
    for unit in nodectl-boot nodectl-settle; do
        mkdir -p /run/systemd/system/$unit.service.d
        printf '[Unit]\\nConditionPathExists=\\n' >/run/systemd/system/$unit.service.d/test.conf
    done
    printf '[Service]\\nRestart=no\\nExecStart=\\nExecStart=/bin/false\\n' >>/run/systemd/system/nodectl-settle.service.d/test.conf
    systemctl daemon-reload
    systemctl start nodectl-boot nodectl-settle || true
    rm -r /run/systemd/system/nodectl-*.service.d
    systemctl daemon-reload
    systemctl is-active nodectl-boot && systemctl is-active nodectl-reap.timer
    systemctl is-failed nodectl-settle";

/// Removes and purges the package: its files and units go, its journals stay, and nothing of the network changes.
pub fn remove_and_purge(node: &dyn Node) -> Result<()> {
    let network = Snapshot::take(node)?;
    node.sh(UNITS_AT_WORK)?;
    node.sh("apt-get remove -y nodectl")?;
    must_be_idle(node)?;
    node.sh("test ! -e /usr/bin/nodectl; test ! -e /usr/libexec/nodectl; test -e /etc/nodectl/config.toml")?;
    node.sh("test ! -e /etc/systemd/system/timers.target.wants/nodectl-reap.timer")?;
    let purged = node.sh("dpkg --purge nodectl 2>&1")?;
    ensure!(purged.contains("stay in /var/lib/nodectl"), "{purged}");
    node.sh("test ! -e /etc/nodectl; ls /var/lib/nodectl/journal/*.jsonl")?;
    let changed = network.diff(&Snapshot::take(node)?);
    ensure!(changed.is_empty(), "removing changed the network: {changed:#?}");
    Ok(())
}
