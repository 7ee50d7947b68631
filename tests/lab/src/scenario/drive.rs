//! nodectl while it runs: watched by its progress lines, disturbed when a wanted step begins.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{Done, Scenario};

/// Longer than any step of the lab; a run that shows nothing for so long hangs.
const SILENCE: Duration = Duration::from_secs(240);

/// A nodectl that runs on a node. Killed when dropped.
pub struct Driven {
    child: Child,
    lines: Receiver<String>,
    stdout: Option<JoinHandle<String>>,
    stderr: String,
}

impl Scenario {
    /// Starts `nodectl ARGS --progress json` on a node.
    pub fn drive(&self, index: usize, args: &[&str]) -> Result<Driven> {
        let mut argv = args.to_vec();
        argv.extend(["--progress", "json"]);
        let mut command = self.nodectl_command(index, &argv, &[])?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("nodectl could not be started")?;
        let mut stdout = child.stdout.take().context("nodectl has no output")?;
        let stderr = child.stderr.take().context("nodectl has no error output")?;
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let stdout = std::thread::spawn(move || {
            let mut text = String::new();
            // A process that is killed leaves what it had written.
            let _ = stdout.read_to_string(&mut text);
            text
        });
        Ok(Driven { child, lines, stdout: Some(stdout), stderr: String::new() })
    }

    /// The arguments of a switch with the lab's patience, and these besides.
    pub fn switch_args<'a>(to: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["migrate", "--to", to, "--yes", "--drain-timeout", "60", "--agent-timeout", "60"];
        args.extend(more);
        args
    }

    /// Names of the steps that the plan of a switch has, in order.
    pub fn steps(&self, index: usize, to: &str) -> Result<Vec<String>> {
        let plan = self.nodectl(index, &["plan", "--to", to, "--output", "json"])?.expect(0)?.json()?;
        let steps = plan["plan"]["steps"].as_array().cloned().unwrap_or_default();
        Ok(steps.iter().filter_map(|s| s["step"].as_str().map(str::to_owned)).collect())
    }
}

impl Driven {
    /// Waits until a progress line with this event ("step", "done", "undo", ...) of this step; false where nodectl ended first.
    pub fn until(&mut self, event: &str, step: &str) -> Result<bool> {
        while let Some(next) = self.next(event)? {
            if next == step {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits for the next progress line with this event, and answers its step; nothing where nodectl ended first.
    pub fn next(&mut self, event: &str) -> Result<Option<String>> {
        loop {
            let line = match self.lines.recv_timeout(SILENCE) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) => bail!("nodectl shows nothing for {SILENCE:?}: {}", self.stderr),
            };
            self.note(&line);
            let Ok(value) = serde_json::from_str::<Value>(&line) else { continue };
            if value["event"] == event {
                return Ok(value["step"].as_str().map(str::to_owned));
            }
        }
    }

    /// Sends a signal to nodectl itself; nsenter, which waits for it, does not pass signals on.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        for pid in children.split_whitespace().filter_map(|word| word.parse().ok()) {
            // ESRCH: it has ended meanwhile.
            let _ = kill(Pid::from_raw(pid), signal);
        }
        Ok(())
    }

    /// Stops it where it is until [`Driven::go_on`].
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on. nsenter stops with what it has started, and lets that go on when it goes on itself.
    pub fn go_on(&self) -> Result<()> {
        let nsenter = Pid::from_raw(self.child.id().try_into().context("no process id")?);
        kill(nsenter, Signal::SIGCONT).context("nsenter cannot be signalled")?;
        self.signal(Signal::SIGCONT)
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Result<Done> {
        let end = Instant::now() + SILENCE;
        let status = loop {
            while let Ok(line) = self.lines.try_recv() {
                self.note(&line);
            }
            if let Some(status) = self.child.try_wait().context("nodectl could not be waited for")? {
                break status;
            }
            if Instant::now() > end {
                bail!("nodectl does not end: {}", self.stderr);
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        self.done(status)
    }

    /// SIGKILL, and its end.
    pub fn kill(self) -> Result<Done> {
        self.signal(Signal::SIGKILL)?;
        self.finish()
    }

    fn done(&mut self, status: ExitStatus) -> Result<Done> {
        let stdout = self.stdout.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        while let Ok(line) = self.lines.recv_timeout(Duration::from_millis(200)) {
            self.note(&line);
        }
        Ok(Done { code: crate::command::exit_code(status), stdout, stderr: std::mem::take(&mut self.stderr) })
    }

    fn note(&mut self, line: &str) {
        self.stderr.push_str(line);
        self.stderr.push('\n');
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.signal(Signal::SIGKILL);
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
