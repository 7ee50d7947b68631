//! PID 1 of a light node: its mounts and network, a message bus with systemd's interface, the units, and an orderly shutdown.

mod boot;
mod bus;
mod jobs;
mod mounts;
pub(crate) mod network;
mod reaper;
mod service;
mod supervisor;
mod unit;
mod unit_file;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use crate::node::Spec;
use reaper::Reaper;
use supervisor::Supervisor;

/// The program `init SPEC`.
pub fn main(arguments: &[String]) -> Result<ExitCode> {
    let [path] = arguments else {
        anyhow::bail!("usage: nodectl-lab init SPEC");
    };
    prctl::set_pdeathsig(Signal::SIGKILL).context("the parent's death could not be subscribed to")?;
    // Blocked before any thread exists: a signal to PID 1 is dropped by the kernel unless it is blocked or handled.
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTERM);
    stop.add(Signal::SIGINT);
    stop.thread_block().context("signals could not be blocked")?;
    let spec = Spec::read(Path::new(path))?;
    mounts::set_up(&spec)?;
    network::set_up(&spec)?;
    let reaper = Reaper::start();
    bus::start_daemon(&reaper)?;
    let supervisor = Supervisor::new(Arc::clone(&reaper))?;
    bus::serve(&supervisor)?;
    boot::run(&supervisor);
    let mut out = std::io::stdout();
    writeln!(out, "ready").and_then(|()| out.flush()).context("nobody listens for the node's readiness")?;
    stop.wait().context("signals could not be waited for")?;
    boot::stop(&supervisor);
    kill_everything();
    Ok(ExitCode::SUCCESS)
}

/// The program `network SPEC`, for a node that has another PID 1: the node's own network.
pub fn set_up_network(arguments: &[String]) -> Result<ExitCode> {
    let [path] = arguments else {
        anyhow::bail!("usage: nodectl-lab network SPEC");
    };
    network::set_up(&Spec::read(Path::new(path))?)?;
    Ok(ExitCode::SUCCESS)
}

/// SIGTERM to every process of the node, two seconds, then PID 1's end takes the rest.
fn kill_everything() {
    let all = Pid::from_raw(-1);
    let until = Instant::now() + Duration::from_secs(2);
    let _ = kill(all, Signal::SIGTERM);
    // Signal 0 asks whether anybody is left; PID 1 itself does not count.
    while Instant::now() < until && kill(all, None) != Err(Errno::ESRCH) {
        std::thread::sleep(Duration::from_millis(10));
    }
}
