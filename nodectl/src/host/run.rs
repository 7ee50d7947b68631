//! Starting other programs. Nothing else in nodectl may do it.
//!
//! A program gets its arguments as an array (never through a shell), an environment of our own making, a process group of
//! its own (so that Ctrl-C on the terminal cannot cut a firewall restore in half) and a time limit.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

/// Where programs are looked for: fixed, so that the caller's environment cannot slip in another iptables.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How much of a failed program's standard error an error message carries.
const STDERR_SHOWN: usize = 1024;

/// The most that is kept of a program's output.
const OUTPUT_LIMIT: u64 = 256 << 20;

/// How long output is waited for after the program ended: a child of its own may hold the pipe open.
const PIPE_GRACE: Duration = Duration::from_secs(2);

/// A program to run.
#[derive(Debug, Clone)]
pub struct Run {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    inherit_env: bool,
    stdin: Vec<u8>,
    timeout: Duration,
}

/// How a program ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit status.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
}

enum Event {
    Exited,
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
}

impl Run {
    /// A program, by name (looked for in [`PATH`]) or by path.
    pub fn new(program: impl AsRef<OsStr>) -> Run {
        Run {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            inherit_env: false,
            stdin: Vec::new(),
            timeout: Duration::from_secs(30),
        }
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Run {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Run {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Passes our own environment on; only for credential helpers, whose contract promises it.
    pub fn inherit_env(mut self) -> Run {
        self.inherit_env = true;
        self
    }

    /// Gives it this standard input; without it there is none.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Run {
        self.stdin = bytes.into();
        self
    }

    /// Limits its time; 30 s without it.
    pub fn timeout(mut self, timeout: Duration) -> Run {
        self.timeout = timeout;
        self
    }

    /// Runs it and returns its standard output; an exit status other than 0 is an error.
    pub fn text(self) -> Result<String> {
        let shown = self.shown();
        let output = self.output()?;
        if !output.status.success() {
            bail!("`{shown}` {}", output.failure());
        }
        String::from_utf8(output.stdout).with_context(|| format!("`{shown}` wrote something that is not UTF-8"))
    }

    /// Runs it; an error only if it could not be started or overran its time limit, in which case its whole process group
    /// is killed.
    pub fn output(self) -> Result<Output> {
        let shown = self.shown();
        let mut child = self.spawn(&shown)?;
        let (sender, events) = channel();
        watch(&mut child, self.stdin, &sender);
        drop(sender);
        let (stdout, stderr, in_time) = collect(&events, Instant::now() + self.timeout);
        if !in_time {
            // Not reaped yet (`watch` leaves it waitable), so the group id cannot belong to anyone else.
            let _ = killpg(pid_of(&child), Signal::SIGKILL);
        }
        let status = child.wait().with_context(|| format!("could not wait for `{shown}`"))?;
        if !in_time {
            bail!("`{shown}` did not end within {} s and was killed{}", self.timeout.as_secs(), tail(&stderr));
        }
        Ok(Output { status, stdout, stderr })
    }

    fn spawn(&self, shown: &str) -> Result<Child> {
        let mut command = std::process::Command::new(&self.program);
        if !self.inherit_env {
            command.env_clear();
        }
        command
            .args(&self.args)
            .env("PATH", PATH)
            .env("LC_ALL", "C")
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .stdin(if self.stdin.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        command.spawn().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                anyhow!("could not run `{shown}`: {} is not installed (looked in {PATH})", self.program.display())
            }
            _ => anyhow!("could not run `{shown}`: {e}"),
        })
    }

    fn shown(&self) -> String {
        let words = std::iter::once(&self.program).chain(&self.args);
        words.map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }
}

impl Output {
    /// How it failed, with the end of its standard error: "failed with status 2: ...".
    pub fn failure(&self) -> String {
        format!("{}{}", self.ending(), tail(&self.stderr))
    }

    /// The same without what it wrote, for a program whose words may be secret.
    pub fn ending(&self) -> String {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("failed with status {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => "failed".to_owned(),
        }
    }
}

/// Whether a program of this name can be found.
pub fn installed(program: &str) -> bool {
    PATH.split(':').any(|dir| {
        nix::unistd::access(&std::path::Path::new(dir).join(program), nix::unistd::AccessFlags::X_OK).is_ok()
    })
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))
}

/// Starts the threads that feed and read the program, and one that tells when it has ended.
fn watch(child: &mut Child, stdin: Vec<u8>, sender: &Sender<Event>) {
    if let Some(mut pipe) = child.stdin.take() {
        thread::spawn(move || {
            // A program that ends without reading everything breaks the pipe; its status tells the story.
            let _ = pipe.write_all(&stdin);
        });
    }
    if let Some(pipe) = child.stdout.take() {
        let sender = sender.clone();
        thread::spawn(move || sender.send(Event::Stdout(read_all(pipe))));
    }
    if let Some(pipe) = child.stderr.take() {
        let sender = sender.clone();
        thread::spawn(move || sender.send(Event::Stderr(read_all(pipe))));
    }
    let pid = pid_of(child);
    let sender = sender.clone();
    thread::spawn(move || {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while let Err(nix::errno::Errno::EINTR) = waitid(Id::Pid(pid), flags) {}
        sender.send(Event::Exited)
    });
}

fn read_all(pipe: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = pipe.take(OUTPUT_LIMIT).read_to_end(&mut bytes);
    bytes
}

/// Waits for the end and the output. The last field is false when the deadline passed first.
fn collect(events: &Receiver<Event>, deadline: Instant) -> (Vec<u8>, Vec<u8>, bool) {
    let (mut stdout, mut stderr) = (None, None);
    let (mut exited, mut until) = (false, deadline);
    while !exited || stdout.is_none() || stderr.is_none() {
        match events.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Event::Stdout(bytes)) => stdout = Some(bytes),
            Ok(Event::Stderr(bytes)) => stderr = Some(bytes),
            Ok(Event::Exited) => {
                exited = true;
                until = Instant::now() + PIPE_GRACE;
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    (stdout.unwrap_or_default(), stderr.unwrap_or_default(), exited)
}

fn tail(stderr: &[u8]) -> String {
    let start = stderr.len().saturating_sub(STDERR_SHOWN);
    let text = String::from_utf8_lossy(&stderr[start..]);
    let text = text.trim();
    if text.is_empty() { String::new() } else { format!(": {text}") }
}
