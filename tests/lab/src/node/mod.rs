//! One interface to every kind of node: light ones here, booted systemd containers behind the same trait.

pub(crate) mod exec;
pub mod launch;
mod light;
mod power;
mod spec;
pub(crate) mod units;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{self, Output};
use crate::kubelet::Cri;

pub use exec::Running;
pub use light::LightNode;
pub use power::Power;
pub use spec::{Second, Spec};
pub use units::UnitState;

/// How a node is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Namespaces and overlays under the lab's own PID 1, up in a tenth of a second.
    Light,
    /// A booted systemd container with Debian's containerd.
    Full,
    /// A light node on a virtual machine of its own, which loses in a power cut what was not synced.
    Machine,
    /// A full node's system on a virtual machine of its own: systemd with udev, a kernel with modules, a disk.
    FullMachine,
}

impl Kind {
    /// True where Debian's systemd is PID 1 and nodectl is where packages put it.
    pub fn is_full(self) -> bool {
        matches!(self, Kind::Full | Kind::FullMachine)
    }

    /// True where its processor is emulated.
    pub fn is_emulated(self) -> bool {
        matches!(self, Kind::Machine | Kind::FullMachine)
    }
}

/// A node of the lab. All kinds have real kernel objects, a CRI socket, a D-Bus with systemd's interface and a kubelet.
pub trait Node: Send + Sync {
    /// How it is made.
    fn kind(&self) -> Kind;

    /// What it is made from, and its switch.
    fn power(&self) -> &Power;

    /// An orderly shutdown: services are stopped, processes get SIGTERM, then the node is off.
    fn shutdown(&self) -> Result<()>;

    /// The node's name, which is its Node object's too.
    fn name(&self) -> &str {
        &self.power().spec().name
    }

    /// Its number in the cluster, from 1.
    fn index(&self) -> u8 {
        self.power().spec().index
    }

    /// Its address on the underlay.
    fn address(&self) -> Ipv4Addr {
        self.power().spec().address
    }

    /// Its IPv6 address on the underlay, in a dual-stack cluster.
    fn address_v6(&self) -> Option<Ipv6Addr> {
        self.power().spec().ipv6.map(|second| second.address)
    }

    /// Its PID 1 as the machine sees it; an error while it is off.
    fn pid(&self) -> Result<i32> {
        self.power().pid()
    }

    /// Switches the node on: boots, and answers when its units were started. The kubelet may need longer to be ready.
    fn start(&self) -> Result<()> {
        self.power().start()
    }

    /// A power cut: everything is killed at once; the disk stays, /run and all namespaces are gone.
    fn power_cut(&self) -> Result<()> {
        self.power().cut()
    }

    /// An orderly reboot.
    fn reboot(&self) -> Result<()> {
        self.shutdown()?;
        self.start()
    }

    /// True while the node is on.
    fn is_on(&self) -> bool {
        self.pid().is_ok()
    }

    /// A command that will run inside the node, to be completed by the caller (environment, pipes).
    fn command(&self, argv: &[&str]) -> Result<Command> {
        if argv.is_empty() {
            bail!("no program was named for node {}", self.name());
        }
        Ok(exec::enter(self.pid()?, argv))
    }

    /// Runs a program inside the node to its end.
    fn exec(&self, argv: &[&str]) -> Result<Output> {
        command::output(&mut self.command(argv)?, "")
    }

    /// Runs a program inside the node to its end, with input.
    fn exec_with_input(&self, argv: &[&str], stdin: &str) -> Result<Output> {
        command::output(&mut self.command(argv)?, stdin)
    }

    /// Runs a program inside the node that must succeed; answers its standard output.
    fn must(&self, argv: &[&str]) -> Result<String> {
        let result = self.exec(argv)?;
        if !result.ok() {
            bail!(
                "`{}` failed on {} with exit code {}: {}",
                argv.join(" "),
                self.name(),
                result.code,
                result.stderr.trim()
            );
        }
        Ok(result.stdout)
    }

    /// Runs a shell script inside the node that must succeed; answers its standard output.
    fn sh(&self, script: &str) -> Result<String> {
        self.must(&["sh", "-ec", script])
    }

    /// Starts a program inside the node and leaves it running.
    fn spawn(&self, argv: &[&str]) -> Result<Running> {
        Running::start(self.command(argv)?)
    }

    /// Where the machine sees a file of the node, for reading and writing without a process.
    fn path(&self, inside: &str) -> Result<PathBuf> {
        Ok(Path::new("/proc").join(self.pid()?.to_string()).join("root").join(inside.trim_start_matches('/')))
    }

    /// Copies a file of the machine to the node.
    fn send(&self, file: &Path, inside: &str) -> Result<()> {
        let copied = std::fs::copy(file, self.path(inside)?);
        copied.map(drop).with_context(|| format!("{} could not be copied to {}", file.display(), self.name()))
    }

    /// A client of its container runtime.
    fn cri(&self) -> Result<Cri> {
        Cri::new(&self.path(crate::runtime::SOCKET)?)
    }

    /// Starts a unit and waits for its job; an error unless the job's result is "done".
    fn start_unit(&self, unit: &str) -> Result<()> {
        units::run_job(&self.path(units::BUS)?, "StartUnit", unit)
    }

    /// Stops a unit and waits for its job.
    fn stop_unit(&self, unit: &str) -> Result<()> {
        units::run_job(&self.path(units::BUS)?, "StopUnit", unit)
    }

    /// Restarts a unit and waits for its job.
    fn restart_unit(&self, unit: &str) -> Result<()> {
        units::run_job(&self.path(units::BUS)?, "RestartUnit", unit)
    }

    /// What systemd says of a unit.
    fn unit_state(&self, unit: &str) -> Result<UnitState> {
        units::state(&self.path(units::BUS)?, unit)
    }
}
