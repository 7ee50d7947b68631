//! The launcher: makes a light node's namespaces and starts its PID 1; when its standard input closes, the node is killed.
//!
//! A process of its own, because namespaces belong to threads and a test's process has many; and because the pipe it holds closes by itself
//! when the process that made the node dies, however it dies.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::OnceLock;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Spec;
use crate::command;

/// The node's PID 1, once it is there.
static INIT: OnceLock<i32> = OnceLock::new();

/// The program `launch SPEC`.
pub fn main(arguments: &[String]) -> Result<ExitCode> {
    let [path] = arguments else {
        anyhow::bail!("usage: nodectl-lab launch SPEC");
    };
    let spec = Spec::read(Path::new(path))?;
    let namespaces =
        CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    unshare(namespaces).context("new namespaces were refused. To fix it: run as root")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("the mounts could not be made private")?;
    // Shared within the node only, as systemd does at boot: containers' mount namespaces follow the node's.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED, None::<&str>)
        .context("the node's mounts could not be made shared")?;
    plug_in(&spec)?;
    // Before the next line, after which this process can start no thread: the kernel refuses one that its own pid namespace would not hold.
    std::thread::spawn(kill_at_end_of_input);
    // Last, as the first process started after this is PID 1 of the node.
    unshare(CloneFlags::CLONE_NEWPID).context("a new process namespace was refused. To fix it: run as root")?;
    let mut init =
        Command::new("/proc/self/exe").args(["init", path]).spawn().context("the node's PID 1 could not be started")?;
    let pid = i32::try_from(init.id()).context("the node's PID 1 has an impossible number")?;
    let _ = INIT.set(pid);
    let mut out = std::io::stdout();
    writeln!(out, "pid {pid}").and_then(|()| out.flush()).context("the cluster does not listen")?;
    let status = init.wait().context("the node's PID 1 could not be waited for")?;
    Ok(ExitCode::from(u8::try_from(command::exit_code(status)).unwrap_or(1)))
}

/// Puts eth0 into this network namespace, its other end on the underlay bridge.
pub(crate) fn plug_in(spec: &Spec) -> Result<()> {
    let (port, mac, me) = (spec.port(), spec.mac(), std::process::id());
    let script =
        format!("link add {port} type veth peer name eth0 address {mac} netns {me}\nlink set {port} master ul0 up\n");
    command::run_with_input(&["ip", "-n", &spec.underlay, "-batch", "-"], &script).map(drop)
}

/// Waits until nobody holds the other end of standard input, then kills the node.
fn kill_at_end_of_input() {
    let mut rest = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut rest);
    let pid = *INIT.wait();
    // SIGKILL from outside its namespace is the one signal that PID 1 cannot ignore; the kernel kills all others with it.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}
