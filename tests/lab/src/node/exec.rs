//! Processes inside a node, started from outside.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The environment a node's programs get: the machine's own would leak proxies and the like into the lab.
pub(crate) const ENVIRONMENT: [(&str, &str); 3] =
    [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/root"), ("LANG", "C.UTF-8")];

/// A command that runs `argv` in all namespaces of the process `pid`.
pub fn enter(pid: i32, argv: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.env_clear().envs(ENVIRONMENT);
    for name in ["RUST_BACKTRACE", "RUST_LOG", "LLVM_PROFILE_FILE"] {
        if let Ok(value) = std::env::var(name) {
            command.env(name, value);
        }
    }
    command.args(["-t", &pid.to_string(), "-m", "-n", "-p", "-u", "-i", "--wdns=/", "--"]).args(argv);
    command
}

/// A program that runs inside a node; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    /// Starts the command; standard input is a pipe that the caller may write to and close.
    pub(super) fn start(mut command: Command) -> Result<Running> {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("nsenter could not be started. To fix it: install util-linux")?;
        Ok(Running { child })
    }

    /// The process, with its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal to the program itself: nsenter only waits for it and would not pass the signal on.
    pub fn signal(&self, signal: Signal) {
        for pid in self.inner() {
            // ESRCH: it has ended meanwhile, which is what a signal wants anyway.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Waits for the end; answers the exit code.
    pub fn wait(mut self) -> Result<i32> {
        drop(self.child.stdin.take());
        Ok(crate::command::exit_code(self.child.wait().context("the program could not be waited for")?))
    }

    /// The machine's process ids of what nsenter started.
    fn inner(&self) -> Vec<i32> {
        let id = self.child.id();
        std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"))
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
