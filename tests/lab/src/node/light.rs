//! A light node, as the process that owns it sees it.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Kind, Node, Spec};
use crate::command;

/// A node made of namespaces under the lab's own PID 1.
#[derive(Debug)]
pub struct LightNode {
    spec: Spec,
    binary: PathBuf,
    power: Mutex<Option<Power>>,
}

/// A node that is on.
#[derive(Debug)]
struct Power {
    launcher: Child,
    pid: i32,
}

impl LightNode {
    /// Describes a node that `binary`, the lab's own, will run; it is off until started.
    pub fn new(spec: Spec, binary: PathBuf) -> Result<LightNode> {
        spec.write()?;
        Ok(LightNode { spec, binary, power: Mutex::new(None) })
    }

    /// What the node is made from.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What the node's programs have written so far: console first, then each unit's log.
    pub fn console(&self) -> String {
        std::fs::read_to_string(self.spec.folder.join("console.log")).unwrap_or_default()
    }

    /// Starts the launcher and reads its answers until the node is ready.
    fn launch(&self) -> Result<Power> {
        let console = self.spec.folder.join("console.log");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&console)
            .with_context(|| format!("the console {} could not be opened", console.display()))?;
        let mut launcher = Command::new(&self.binary)
            .args(["launch".as_ref(), self.spec.file().as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Its own process group: Ctrl-C goes to the owner, whose end closes the pipe.
            .process_group(0)
            .spawn()
            .with_context(|| {
                format!(
                    "the lab's binary {} could not be started. To fix it: cargo build -p nodectl-lab",
                    self.binary.display()
                )
            })?;
        match read_answers(&mut launcher) {
            Ok(pid) => Ok(Power { launcher, pid }),
            Err(error) => {
                drop(launcher.stdin.take());
                let _ = launcher.wait();
                Err(error.context(format!(
                    "{} did not boot; its console says: {}",
                    self.spec.name,
                    last_lines(&self.console())
                )))
            }
        }
    }

    /// Takes the power away after `before` was done to PID 1, and waits until nothing of the node runs.
    fn off(&self, before: Signal) -> Result<()> {
        let Some(mut power) = self.power.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        // ESRCH: it is off already.
        let _ = kill(Pid::from_raw(power.pid), before);
        if before == Signal::SIGKILL {
            drop(power.launcher.stdin.take());
        }
        power.launcher.wait().with_context(|| format!("{} could not be waited for", self.spec.name))?;
        // The namespace itself goes away a moment later, in the background; its port must not carry packets until then.
        let unplug = ["ip", "-n", &self.spec.underlay, "link", "del", &self.spec.port()];
        command::output(&mut command::from_argv(&unplug)?, "").map(drop)
    }
}

/// Reads "pid N" and "ready".
fn read_answers(launcher: &mut Child) -> Result<i32> {
    let Some(stdout) = launcher.stdout.take() else {
        bail!("the launcher has no output");
    };
    let mut pid = None;
    for line in BufReader::new(stdout).lines() {
        let line = line.context("the launcher's answer could not be read")?;
        match line.split_once(' ') {
            Some(("pid", number)) => pid = number.parse().ok(),
            _ if line == "ready" => return pid.context("the launcher named no PID 1"),
            _ => bail!("the launcher gave an unknown answer: {line}"),
        }
    }
    bail!("it ended before it was ready")
}

/// The last lines of a text, for a message.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join(" | ")
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
        match &*self.power.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(power) => Ok(power.pid),
            None => bail!("{} is off. To fix it: start it first", self.spec.name),
        }
    }

    fn start(&self) -> Result<()> {
        let mut power = self.power.lock().unwrap_or_else(PoisonError::into_inner);
        if power.is_none() {
            *power = Some(self.launch()?);
        }
        Ok(())
    }

    fn power_cut(&self) -> Result<()> {
        self.off(Signal::SIGKILL)
    }

    fn shutdown(&self) -> Result<()> {
        self.off(Signal::SIGTERM)
    }
}

impl Drop for LightNode {
    fn drop(&mut self) {
        // Nobody can be told of a failure here; the cluster's reaper looks after what is left.
        let _ = self.power_cut();
    }
}
