//! A node's power: the launcher process that holds the node, started and ended by whoever owns the node.
//!
//! A launcher is a program of the lab (`launch SPEC`, `launch-full SPEC`) that makes the namespaces, starts PID 1, answers "pid N" and
//! "ready" on its standard output, and ends when the node does. The end of its standard input is the power cut.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Spec;
use crate::command;

/// The switch of one node. Dropping it is a power cut.
#[derive(Debug)]
pub struct Power {
    spec: Spec,
    binary: PathBuf,
    launcher: &'static str,
    on: Mutex<Option<On>>,
}

/// A node that is on.
#[derive(Debug)]
struct On {
    launcher: Child,
    pid: i32,
}

impl Power {
    /// A node that is off; `launcher` is the program of the lab's `binary` that will start it.
    pub fn new(spec: Spec, binary: PathBuf, launcher: &'static str) -> Result<Power> {
        spec.write()?;
        Ok(Power { spec, binary, launcher, on: Mutex::new(None) })
    }

    /// What the node is made from.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The node's PID 1; an error while it is off.
    pub fn pid(&self) -> Result<i32> {
        match &*self.on.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(on) => Ok(on.pid),
            None => bail!("{} is off. To fix it: start it first", self.spec.name),
        }
    }

    /// Switches the node on, unless it is.
    pub fn start(&self) -> Result<()> {
        let mut on = self.on.lock().unwrap_or_else(PoisonError::into_inner);
        if on.is_none() {
            *on = Some(self.launch()?);
        }
        Ok(())
    }

    /// Kills the node at once.
    pub fn cut(&self) -> Result<()> {
        self.end(true, |pid| {
            // SIGKILL from outside its namespace is the one signal that PID 1 cannot ignore; the kernel kills all others with it.
            // ESRCH: it is off already.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            Ok(())
        })
    }

    /// Lets the node shut down: `ask` gets its PID 1.
    pub fn shut_down(&self, ask: impl FnOnce(i32) -> Result<()>) -> Result<()> {
        self.end(false, ask)
    }

    /// Switches the node off: `how` gets its PID 1; `cut` also ends the launcher's input. Waits until nothing of the node runs.
    fn end(&self, cut: bool, how: impl FnOnce(i32) -> Result<()>) -> Result<()> {
        let spec = &self.spec;
        // Off from the first moment: whoever asks meanwhile is told so, and does not wait for the end.
        let Some(mut on) = self.on.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        // Not left to wait(), which closes it before it waits: a launcher whose input ends kills the node.
        let mut input = on.launcher.stdin.take();
        let asked = how(on.pid);
        if cut || asked.is_err() {
            drop(input.take());
        }
        on.launcher.wait().with_context(|| format!("{} could not be waited for", spec.name))?;
        drop(input);
        // The namespace itself goes away a moment later, in the background; its port must not carry packets until then.
        let unplug = ["ip", "-n", &spec.underlay, "link", "del", &spec.port()];
        command::output(&mut command::from_argv(&unplug)?, "")?;
        asked
    }

    /// Starts the launcher and reads its answers until the node is ready.
    fn launch(&self) -> Result<On> {
        let spec = &self.spec;
        let console = spec.console_file();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&console)
            .with_context(|| format!("the console {} could not be opened", console.display()))?;
        let mut launcher = Command::new(&self.binary)
            .args([self.launcher.as_ref(), spec.file().as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // Its own process group: Ctrl-C goes to the owner, whose end closes the pipe.
            .process_group(0)
            .spawn()
            .with_context(|| command::lab_not_started(&self.binary))?;
        match read_answers(&mut launcher) {
            Ok(pid) => Ok(On { launcher, pid }),
            Err(error) => {
                drop(launcher.stdin.take());
                let _ = launcher.wait();
                let console = last_lines(&spec.console());
                Err(error.context(format!("{} did not boot; its console says: {console}", spec.name)))
            }
        }
    }
}

impl Drop for Power {
    fn drop(&mut self) {
        // Nobody can be told of a failure here; the cluster's guard looks after what is left.
        let _ = self.cut();
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
