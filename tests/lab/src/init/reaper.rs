//! Every child of PID 1 is waited for in one place: its own, and those whose parents died.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::wait::{WaitStatus, waitpid};

/// What is to be done with the exit code of a process.
type OnExit = Box<dyn FnOnce(i32) + Send>;

/// The table of processes that somebody wants to hear of.
#[derive(Default)]
pub struct Reaper {
    waiting: Mutex<HashMap<i32, OnExit>>,
}

impl Reaper {
    /// Starts to reap. From now on nobody else may wait for a child of this process.
    pub fn start() -> Arc<Reaper> {
        let reaper = Arc::new(Reaper::default());
        let mine = Arc::clone(&reaper);
        std::thread::spawn(move || mine.run());
        reaper
    }

    /// Starts `argv` with its output appended to `log`; `on_exit` gets its exit code.
    ///
    /// The program is started through `enter`, whose exec cannot fail unseen: the standard library waits for a child whose exec failed, and
    /// would find it reaped already. `enter` also takes away the signal mask that PID 1 must have and nobody else.
    pub fn spawn(&self, argv: &[String], environment: &[(String, String)], log: &Path, on_exit: OnExit) -> Result<i32> {
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("the log {} could not be opened", log.display()))?;
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["enter", "--"])
            .args(argv)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("the log could not be shared")?)
            .stderr(output);
        // Held while the process starts: it may end before it is in the table.
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn().context("the lab's own binary could not be started")?;
        let pid = i32::try_from(child.id()).context("a process has an impossible number")?;
        waiting.insert(pid, on_exit);
        Ok(pid)
    }

    /// Waits for children for ever.
    fn run(&self) {
        loop {
            let (pid, code) = match waitpid(None, None) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(_) => continue,
                // ECHILD: no children just now.
                Err(_) => {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
            };
            let on_exit = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid.as_raw());
            if let Some(on_exit) = on_exit {
                on_exit(code);
            }
        }
    }
}
