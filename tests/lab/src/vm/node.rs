//! A node that is a machine of its own, as the process that owns it sees it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use super::enter;
use crate::node::{Kind, Node, Power, Spec};

/// A light node on a virtual machine: its files lie on the machine's disk, which loses in a power cut what was not synced.
#[derive(Debug)]
pub struct MachineNode {
    power: Power,
    binary: PathBuf,
}

impl MachineNode {
    /// Describes a node whose machine `binary`, the lab's own, will boot; it is off until started.
    pub fn new(spec: Spec, binary: PathBuf) -> Result<MachineNode> {
        Ok(MachineNode { power: Power::new(spec, binary.clone(), "launch-machine")?, binary })
    }
}

impl Node for MachineNode {
    fn kind(&self) -> Kind {
        Kind::Machine
    }

    fn power(&self) -> &Power {
        &self.power
    }

    fn shutdown(&self) -> Result<()> {
        let off = "kill -TERM $(cat /run/node.pid); while kill -0 $(cat /run/node.pid); do usleep 50000; done; sync; poweroff -f";
        self.power.shut_down(|_| {
            // It does not answer any more.
            let _ = enter::run(&self.power.spec().line(), off);
            Ok(())
        })
    }

    fn command(&self, argv: &[&str]) -> Result<Command> {
        if argv.is_empty() {
            bail!("no program was named for node {}", self.name());
        }
        let mut command = Command::new(&self.binary);
        command.arg("in-machine").arg(self.power.spec().line()).args(argv);
        Ok(command)
    }

    fn path(&self, inside: &str) -> Result<PathBuf> {
        bail!("{inside} of {} cannot be seen from here. To fix it: ask with a program on the node", self.name())
    }
}
