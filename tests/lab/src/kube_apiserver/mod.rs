//! A real kube-apiserver, with etcd behind it, in the stand-in's place.
//!
//! Both run in a network namespace of their own that holds nothing but a loopback; connections to the addresses that
//! the server is to listen on are handed through. So neither meets anything of the machine, and the kernel ends both
//! with the thread that started them.

mod forward;
mod programs;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};
use tokio::sync::oneshot;

use crate::apiserver::Regime;
use crate::apiserver::faults::Faults;
use crate::apiserver::serve::Socket;
use crate::cluster;
use crate::command;
use crate::pki::Pki;
use programs::{Files, Programs};

pub use programs::regime_of;

/// A running kube-apiserver; it ends when dropped.
pub struct KubeApiserver {
    /// Whose refusals it gives.
    pub regime: Regime,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    scratch: Option<PathBuf>,
}

impl KubeApiserver {
    /// Starts both programs of the folder `assets` and waits until the server is ready. `state` keeps the objects over
    /// restarts; without it they end with the server.
    pub fn start(assets: &Path, state: Option<&Path>, pki: &Pki, sockets: Vec<Socket>, faults: Faults) -> Result<Self> {
        let scratch = match state {
            Some(_) => None,
            None => Some(cluster::scratch("api")?),
        };
        let folder = state.or(scratch.as_deref()).context("no folder for the objects")?;
        let files = Files::new(assets, folder, pki)?;
        let regime = files.regime;
        let (stop, stopped) = oneshot::channel();
        let (ready, outcome) = mpsc::channel();
        let thread =
            std::thread::Builder::new().name("kube-apiserver".into()).spawn(move || match start_apart(&files) {
                Ok(programs) => {
                    let _ = ready.send(Ok(()));
                    if let Err(error) = forward::run(sockets, &faults, stopped) {
                        eprintln!("nodectl-lab: connections to kube-apiserver end: {error:#}");
                    }
                    drop(programs);
                }
                Err(error) => drop(ready.send(Err(error))),
            })?;
        // Dropped on failure too: it clears up.
        let server = Self { regime, stop: Some(stop), thread: Some(thread), scratch };
        outcome.recv().context("the thread that starts kube-apiserver died")??;
        Ok(server)
    }
}

/// Starts the programs in a network namespace of this thread's own, which it does not leave.
fn start_apart(files: &Files) -> Result<Programs> {
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace for kube-apiserver could not be made")?;
    command::run(&["ip", "link", "set", "lo", "up"])?;
    Programs::start(files)
}

impl Drop for KubeApiserver {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(folder) = self.scratch.take() {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}
