//! A light node, as the process that owns it sees it.

use std::path::PathBuf;

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Kind, Node, Power, Spec};

/// A node made of namespaces under the lab's own PID 1.
#[derive(Debug)]
pub struct LightNode(Power);

impl LightNode {
    /// Describes a node that `binary`, the lab's own, will run; it is off until started.
    pub fn new(spec: Spec, binary: PathBuf) -> Result<LightNode> {
        Ok(LightNode(Power::new(spec, binary, "launch")?))
    }
}

impl Node for LightNode {
    fn kind(&self) -> Kind {
        Kind::Light
    }

    fn power(&self) -> &Power {
        &self.0
    }

    fn shutdown(&self) -> Result<()> {
        self.0.shut_down(|pid| {
            // ESRCH: it is off already.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            Ok(())
        })
    }
}
