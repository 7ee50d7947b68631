//! A node that is a machine of its own, as the process that owns it sees it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::enter;
use crate::full;
use crate::node::{Kind, Node, Power, Spec};

/// A node on a virtual machine: its files lie on the machine's disk, which loses in a power cut what was not synced.
#[derive(Debug)]
pub struct MachineNode {
    power: Power,
    binary: PathBuf,
    kind: Kind,
}

impl MachineNode {
    /// Describes a node whose machine `binary`, the lab's own, will boot; it is off until started.
    pub fn new(spec: Spec, binary: PathBuf, kind: Kind) -> Result<MachineNode> {
        if kind.is_full() {
            full::layers(&spec)?;
        }
        let launcher = if kind.is_full() { "launch-full-machine" } else { "launch-machine" };
        Ok(MachineNode { power: Power::new(spec, binary.clone(), launcher)?, binary, kind })
    }
}

impl Node for MachineNode {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn power(&self) -> &Power {
        &self.power
    }

    fn shutdown(&self) -> Result<()> {
        let off = if self.kind.is_full() {
            "systemctl --no-block poweroff"
        } else {
            "kill -TERM $(cat /run/node.pid); while kill -0 $(cat /run/node.pid); do usleep 50000; done; sync; poweroff -f"
        };
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

    /// Over the underlay: the line to the machine takes minutes for what a package holds. The node must have curl.
    fn send(&self, file: &Path, inside: &str) -> Result<()> {
        let spec = self.power.spec();
        let (folder, name) =
            (file.parent().context("a file has a folder")?, file.file_name().context("a file has a name")?);
        let address = format!("{}:80", spec.gateway);
        let mut server = Command::new("nsenter");
        server.arg(format!("--net=/run/netns/{}", spec.underlay)).args(["--", "setpriv", "--pdeathsig", "KILL"]);
        server.args(["busybox", "httpd", "-f", "-p", &address, "-h"]).arg(folder).stdin(Stdio::null());
        let mut server = server.spawn().context("busybox could not be started. To fix it: run tests/provision")?;
        let url = format!("http://{address}/{}", name.to_string_lossy());
        let got = self.must(&[
            "curl",
            "-fsS",
            "--retry",
            "20",
            "--retry-delay",
            "1",
            "--retry-connrefused",
            "-o",
            inside,
            &url,
        ]);
        // It has no other end.
        let _ = server.kill();
        let _ = server.wait();
        got.map(drop).with_context(|| format!("{} could not be sent to {}", file.display(), self.name()))
    }
}
