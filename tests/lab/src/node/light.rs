//! A light node, as the process that owns it sees it.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::power::Power;
use super::{Kind, Node, Spec};

/// A node made of namespaces under the lab's own PID 1.
#[derive(Debug)]
pub struct LightNode {
    spec: Spec,
    power: Power,
}

impl LightNode {
    /// Describes a node that `binary`, the lab's own, will run; it is off until started.
    pub fn new(spec: Spec, binary: PathBuf) -> Result<LightNode> {
        spec.write()?;
        Ok(LightNode { spec, power: Power::new(binary, "launch") })
    }

    /// What the node is made from.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What the node's programs have written so far: console first, then each unit's log.
    pub fn console(&self) -> String {
        self.spec.console()
    }
}

impl Node for LightNode {
    fn name(&self) -> &str {
        &self.spec.name
    }

    fn index(&self) -> u8 {
        self.spec.index
    }

    fn address(&self) -> Ipv4Addr {
        self.spec.address
    }

    fn kind(&self) -> Kind {
        Kind::Light
    }

    fn pid(&self) -> Result<i32> {
        self.power.pid(&self.spec)
    }

    fn start(&self) -> Result<()> {
        self.power.start(&self.spec)
    }

    fn power_cut(&self) -> Result<()> {
        self.power.end(&self.spec, true, |pid| {
            // ESRCH: it is off already.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            Ok(())
        })
    }

    fn shutdown(&self) -> Result<()> {
        self.power.end(&self.spec, false, |pid| {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            Ok(())
        })
    }
}

impl Drop for LightNode {
    fn drop(&mut self) {
        // Nobody can be told of a failure here; the cluster's reaper looks after what is left.
        let _ = self.power_cut();
    }
}
