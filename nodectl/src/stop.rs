//! Being told to stop: SIGTERM, SIGINT, SIGHUP and the deadline, looked at between steps and while waiting.
//!
//! The signals are blocked for the whole process and read from a descriptor, so that none can tear a step in half;
//! programs that we start are in process groups of their own and do not see the terminal's Ctrl-C either.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What may end a run early.
#[derive(Debug)]
pub struct Stop {
    signals: Option<SignalFd>,
    deadline: Option<SystemTime>,
    seen: Cell<Option<&'static str>>,
    muted: Cell<bool>,
}

/// The run was told to stop.
#[derive(Debug)]
pub struct Stopped(pub &'static str);

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stopped by {}", self.0)
    }
}

impl std::error::Error for Stopped {}

impl Stop {
    /// Blocks the signals and begins to listen for them.
    pub fn listen(deadline: Option<SystemTime>) -> Result<Stop> {
        let mut set = SigSet::empty();
        [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().for_each(|s| set.add(s));
        set.thread_block().context("could not block the termination signals")?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .context("could not listen for signals")?;
        Ok(Stop { signals: Some(signals), deadline, seen: Cell::new(None), muted: Cell::new(false) })
    }

    /// Never stops; for work that must be finished.
    pub fn never() -> Stop {
        Stop { signals: None, deadline: None, seen: Cell::new(None), muted: Cell::new(false) }
    }

    /// From now on nothing stops the run: it is on its way back.
    pub fn mute(&self) {
        self.muted.set(true);
    }

    /// An error once the run was told to stop, or its deadline has passed.
    pub fn check(&self) -> Result<()> {
        if let Some(signals) = &self.signals
            && let Ok(Some(info)) = signals.read_signal()
            && self.seen.get().is_none()
        {
            let name = match i32::try_from(info.ssi_signo).ok().and_then(|n| Signal::try_from(n).ok()) {
                Some(Signal::SIGINT) => "Ctrl-C",
                Some(Signal::SIGHUP) => "a lost terminal",
                _ => "SIGTERM",
            };
            self.seen.set(Some(name));
        }
        if self.muted.get() {
            return Ok(());
        }
        if self.seen.get().is_none() && self.deadline.is_some_and(|d| SystemTime::now() >= d) {
            self.seen.set(Some("its deadline"));
        }
        match self.seen.get() {
            Some(by) => Err(Stopped(by).into()),
            None => Ok(()),
        }
    }

    /// Asks again and again until there is an answer, the time is up (`None`) or the run is told to stop (an error).
    pub fn wait_for<T>(&self, limit: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
        let start = Instant::now();
        let mut pause = Duration::from_millis(20);
        let mut last = false;
        loop {
            if let Some(answer) = ask()? {
                return Ok(Some(answer));
            }
            self.check()?;
            if last {
                return Ok(None);
            }
            // Once more after the time is up: what was asked may itself have taken all of it, and have done its work.
            last = start.elapsed() >= limit;
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(250));
        }
    }
}
