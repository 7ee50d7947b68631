//! Being told to stop: SIGTERM, SIGINT, SIGHUP and the deadline, looked at between steps and while waiting.
//!
//! The signals are blocked for the whole process and read from a descriptor, so that none can tear a step in half;
//! programs that we start are in process groups of their own and do not see the terminal's Ctrl-C either.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::host::systemd;

/// By what a run is stopped that ends with the machine.
const SHUTDOWN: &str = "the machine's shutdown";

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

    /// From now on nothing but a shutdown stops the run: it is on its way back. What it was told from here on is answered.
    pub fn mute(&self) {
        if !self.muted.replace(true) {
            self.seen.set(None);
        }
    }

    /// An error once the run was told to stop, or its deadline has passed.
    pub fn check(&self) -> Result<()> {
        if let Some(signals) = &self.signals
            && let Ok(Some(info)) = signals.read_signal()
            && self.seen.get().is_none()
        {
            let name = match i32::try_from(info.ssi_signo).ok().and_then(|n| Signal::try_from(n).ok()) {
                _ if systemd::is_going_down() => SHUTDOWN,
                Some(Signal::SIGINT) => "Ctrl-C",
                Some(Signal::SIGHUP) => "a lost terminal",
                _ => "SIGTERM",
            };
            self.seen.set(Some(name));
            if self.muted.get() && name != SHUTDOWN {
                tracing::warn!(
                    "{name} was heard, but the way back goes on: stopped here, the node would be left between two CNIs. What \
                     cannot be done within its time limits is left owed and named"
                );
            }
        }
        // What the way back needs goes down with the machine, and the units of the next boot go on from any step.
        if self.muted.get() && self.seen.get() != Some(SHUTDOWN) {
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

    /// Waits so long, to the millisecond; an error once it is told to stop.
    pub fn pause(&self, span: Duration) -> Result<()> {
        let end = Instant::now() + span;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
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

    /// The same for what may fail for a while: a runtime that is being restarted, an API server that loses a connection. It is
    /// asked again until the time is up; the last error is told then, where it is why nothing is known.
    pub fn keep_asking<T>(&self, limit: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
        let mut last = None;
        let answer = self.wait_for(limit, || match ask() {
            Ok(answer) => {
                last = None;
                Ok(answer)
            }
            Err(error) if error.downcast_ref::<Stopped>().is_some() => Err(error),
            Err(error) => {
                last = Some(error);
                Ok(None)
            }
        })?;
        match (answer, last) {
            (None, Some(error)) => {
                Err(error.context(format!("asked again and again for {} s; at last", limit.as_secs())))
            }
            (answer, _) => Ok(answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn what_fails_for_a_while_is_asked_again() {
        let mut asked = 0;
        let answer = Stop::never().keep_asking(Duration::from_secs(20), || {
            asked += 1;
            match asked {
                1 | 3 => bail!("transport error"),
                2 => Ok(None),
                _ => Ok(Some(asked)),
            }
        });
        assert_eq!(answer.unwrap(), Some(4));
    }

    #[test]
    fn what_fails_to_the_end_is_told() {
        let error = Stop::never().keep_asking::<()>(Duration::ZERO, || bail!("transport error")).unwrap_err();
        assert_eq!(format!("{error:#}"), "asked again and again for 0 s; at last: transport error");
    }

    #[test]
    fn a_no_at_the_end_is_no_error() {
        let mut asked = 0;
        let answer = Stop::never().keep_asking::<()>(Duration::from_millis(1), || {
            asked += 1;
            if asked == 1 { bail!("transport error") } else { Ok(None) }
        });
        assert_eq!(answer.unwrap(), None);
    }
}
