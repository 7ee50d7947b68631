//! The packages of this source, built once by `tests/packages`, and full nodes that they are installed on.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::node::Node;

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
    std::fs::copy(file, node.path(&there)?).with_context(|| format!("{} could not be copied", file.display()))?;
    Ok(there)
}

/// Installs a .deb with the node's own apt.
pub fn install(node: &dyn Node, deb: &Path) -> Result<()> {
    let file = send(node, deb)?;
    node.sh(&format!("DEBIAN_FRONTEND=noninteractive apt-get install -y {file} >/root/apt.log 2>&1 || {{ cat /root/apt.log >&2; exit 1; }}"))
        .map(drop)
}
