//! The program `enter`: becomes another program inside a container's network and mounts.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::SigSet;

/// Where a mount point may be made: the folders that are the node's own. Elsewhere it would be made on the machine.
const OWN: [&str; 8] = ["/etc/", "/opt/", "/run/", "/tmp/", "/usr/libexec/", "/usr/local/", "/var/lib/", "/var/log/"];

/// `enter [--netns PATH] [--bind FROM TO]... -- PROGRAM [ARGS...]`
pub fn main(arguments: &[String]) -> Result<ExitCode> {
    // A program's signals are its own business: whoever started us may block some.
    SigSet::empty().thread_set_mask().context("the signal mask could not be cleared")?;
    let mut rest = arguments;
    let mut has_mounts = false;
    loop {
        match rest {
            [flag, path, more @ ..] if flag == "--netns" => {
                enter_network(path)?;
                rest = more;
            }
            [flag, from, to, more @ ..] if flag == "--bind" => {
                if !has_mounts {
                    own_mounts()?;
                    has_mounts = true;
                }
                bind(Path::new(from), Path::new(to))?;
                rest = more;
            }
            [flag, program, arguments @ ..] if flag == "--" => {
                let error = Command::new(program).arg0(shown_as(program, arguments)).args(arguments).exec();
                return Err(error).with_context(|| format!("{program} could not be started"));
            }
            _ => bail!("usage: nodectl-lab enter [--netns PATH] [--bind FROM TO]... -- PROGRAM [ARGS...]"),
        }
    }
}

/// What the process list shows: a program of the lab stands there under its own name, as the real one would.
fn shown_as<'a>(program: &'a str, arguments: &'a [String]) -> &'a str {
    match arguments.first() {
        Some(name) if program.ends_with("/nodectl-lab") => name,
        _ => program,
    }
}

/// Enters a network namespace.
fn enter_network(path: &str) -> Result<()> {
    let namespace =
        fs::File::open(path).with_context(|| format!("the network namespace {path} could not be opened"))?;
    setns(namespace, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("the network namespace {path} could not be entered"))
}

/// A mount namespace of its own that still hears of the node's changes: else it would keep alive what the node unmounts.
fn own_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("a new mount namespace was refused")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .context("the mounts could not be made the node's followers")
}

/// Shows `from` as `to`; a place that could only be made on the machine itself is left out.
fn bind(from: &Path, to: &Path) -> Result<()> {
    if !to.exists() {
        let to_make = to.display().to_string().replacen("/var/run/", "/run/", 1);
        if !OWN.iter().any(|folder| to_make.starts_with(folder)) {
            return Ok(());
        }
        if from.is_dir() {
            fs::create_dir_all(to).with_context(|| format!("{} could not be made", to.display()))?;
        } else {
            to.parent()
                .map_or(Ok(()), fs::create_dir_all)
                .with_context(|| format!("the folder of {} could not be made", to.display()))?;
            fs::write(to, "").with_context(|| format!("{} could not be made", to.display()))?;
        }
    }
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .with_context(|| format!("{} could not be shown as {}", from.display(), to.display()))
}
