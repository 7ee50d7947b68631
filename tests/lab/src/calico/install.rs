//! The stand-in for Calico's `install-cni`, the init container that runs before felix does.
//!
//! What the real one does, and therefore this one: same-named binaries on the host are overwritten with Calico's builds (flannel, host-local, portmap,
//! loopback, tuning and bandwidth too) by way of a `.tmp` file and a rename; then calico-kubeconfig is written; last the conflist, truncated
//! and written rather than renamed, so that a reader can catch half of it. From then on a runtime that sorts by name uses Calico, although felix does not run.
//! UPDATE_CNI_BINARIES=false and SKIP_CNI_BINARIES keep binaries as they are.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::agent::{self, env, env_number};
use crate::objects::calico::CONFLIST;

use super::token;

/// Ends every binary that "Calico's build" is: an ELF file runs with bytes after its end, and differs from the distribution's.
pub const MARKER: &[u8] = b"\n#lab: calico's build of a CNI plugin\n";

/// What Calico brings along apart from its own two plugins.
const BUNDLED: [&str; 6] = ["host-local", "portmap", "loopback", "tuning", "flannel", "bandwidth"];

fn log(text: &str) {
    agent::log("install-cni", text);
}

/// `nodectl-lab install-cni`.
pub fn main(_args: &[String]) -> Result<ExitCode> {
    let own = agent::kubeconfig::path("calico-node");
    let api = agent::connect("calico-node")?;
    install_binaries()?;
    token::write(api.as_ref(), &own)?;
    log(&format!("Wrote {}", token::path().display()));
    write_conflist()?;
    Ok(ExitCode::SUCCESS)
}

fn install_binaries() -> Result<()> {
    let target = PathBuf::from(env("CNI_BIN_DIR").unwrap_or_else(|| "/opt/cni/bin".to_owned()));
    fs::create_dir_all(&target).with_context(|| format!("{} could not be created", target.display()))?;
    let update = env("UPDATE_CNI_BINARIES").is_none_or(|value| value != "false");
    let skip = env("SKIP_CNI_BINARIES").unwrap_or_default();
    let wanted =
        |name: &str| !skip.split(',').any(|skipped| skipped == name) && (update || !target.join(name).exists());
    if wanted("calico") {
        install(&calico()?, &target, "calico", b"")?;
    }
    if wanted("calico-ipam") {
        link(&target)?;
    }
    for name in BUNDLED {
        match source(name, &target) {
            Some(source) if wanted(name) => install(&source, &target, name, MARKER)?,
            Some(_) => log(&format!("Skipping installation of {name}")),
            None => log(&format!("{name} is not in the image")),
        }
    }
    Ok(())
}

/// The program that is `calico` and `calico-ipam`, by its name: the one of LAB_CNI_BIN_DIR, else the stand-in.
fn calico() -> Result<PathBuf> {
    let given = env("LAB_CNI_BIN_DIR").map(|folder| Path::new(&folder).join("calico")).filter(|path| path.is_file());
    given.map_or_else(|| std::env::current_exe().context("the lab's own binary could not be found"), Ok)
}

/// Where the image's binaries stand: LAB_FLANNEL_PLUGIN for flannel, LAB_CNI_BIN_DIR, the distribution's directory; where they are nowhere,
/// what is on the node stands for them, unless it is Calico's build already.
fn source(name: &str, target: &Path) -> Option<PathBuf> {
    let flannel = env("LAB_FLANNEL_PLUGIN").filter(|_| name == "flannel").map(PathBuf::from);
    let directories = [env("LAB_CNI_BIN_DIR").unwrap_or_default(), "/usr/lib/cni".to_owned()];
    let given = directories.iter().map(|directory| Path::new(directory).join(name));
    let installed = target.join(name);
    let foreign = fs::read(&installed).is_ok_and(|bytes| !bytes.ends_with(MARKER));
    flannel.into_iter().chain(given).find(|path| path.is_file()).or(foreign.then_some(installed))
}

/// Copies by `.tmp` and rename, so that a running plugin keeps its file.
fn install(source: &Path, directory: &Path, name: &str, trailer: &[u8]) -> Result<()> {
    let (temporary, target) = (directory.join(format!("{name}.tmp")), directory.join(name));
    let copied = fs::copy(source, &temporary)
        .and_then(|_| OpenOptions::new().append(true).open(&temporary))
        .and_then(|mut file| file.write_all(trailer))
        .and_then(|()| fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&temporary, &target));
    copied.with_context(|| format!("{} could not be installed as {}", source.display(), target.display()))?;
    log(&format!("Installed {}", target.display()));
    Ok(())
}

/// calico-ipam is the same program: a second name for the file, which is large in a debug build.
fn link(directory: &Path) -> Result<()> {
    let (temporary, target) = (directory.join("calico-ipam.tmp"), directory.join("calico-ipam"));
    // What an interrupted run left.
    let _ = fs::remove_file(&temporary);
    let linked = fs::hard_link(directory.join("calico"), &temporary).and_then(|()| fs::rename(&temporary, &target));
    linked.with_context(|| format!("{} could not be installed", target.display()))?;
    log(&format!("Installed {}", target.display()));
    Ok(())
}

/// The conflist, in two halves with a pause between: the real one's plain write is not atomic either.
fn write_conflist() -> Result<()> {
    let name = env("CNI_CONF_NAME").unwrap_or_else(|| "10-calico.conflist".to_owned());
    let path = token::net_dir().join(&name);
    let template = env("CNI_NETWORK_CONFIG").unwrap_or_else(|| CONFLIST.to_owned());
    let server = env("KUBERNETES_SERVICE_HOST").unwrap_or_default();
    let text = template
        .replace("__KUBERNETES_NODE_NAME__", &agent::node_name()?)
        .replace("__KUBECONFIG_FILEPATH__", &token::path().display().to_string())
        .replace("__CNI_MTU__", &env("CNI_MTU").unwrap_or_else(|| "0".to_owned()))
        .replace("__KUBERNETES_SERVICE_HOST__", &server)
        .replace("__KUBERNETES_SERVICE_PORT__", &env("KUBERNETES_SERVICE_PORT").unwrap_or_default());
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("{} could not be opened", path.display()))?;
    let (first, second) = text.split_at_checked(text.len() / 2).unwrap_or((&text, ""));
    let pause = Duration::from_millis(env_number("LAB_CONFLIST_PAUSE_MS", 100)?);
    let written = file.write_all(first.as_bytes()).and_then(|()| {
        std::thread::sleep(pause);
        file.write_all(second.as_bytes())
    });
    written.with_context(|| format!("{} could not be written", path.display()))?;
    log(&format!("Created {}", path.display()));
    if let Some(old) = env("CNI_OLD_CONF_NAME").filter(|old| *old != name) {
        // Absent is what is wanted.
        let _ = fs::remove_file(token::net_dir().join(old));
    }
    Ok(())
}
