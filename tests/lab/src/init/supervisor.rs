//! All units of a node and their jobs: who waits for whom, and what is running.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;

use super::reaper::Reaper;
use super::unit::Unit;
use super::unit_file::{self, Found};

/// The units and their jobs.
pub struct Supervisor {
    /// Starts processes and hears of their ends.
    pub reaper: Arc<Reaper>,
    state: Mutex<State>,
    changed: Condvar,
}

/// What changes while the node is on.
#[derive(Default)]
pub struct State {
    /// Loaded units by name.
    pub units: BTreeMap<String, Unit>,
    /// Queued and running jobs by number.
    pub jobs: BTreeMap<u32, Job>,
    /// The number of the last job.
    pub last_job: u32,
}

/// A job that is queued or runs.
#[derive(Debug, Clone)]
pub struct Job {
    /// The unit's name.
    pub unit: String,
    /// What is to be done.
    pub kind: JobKind,
}

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    /// Start it, if it does not run.
    Start,
    /// Stop it.
    Stop,
    /// Stop it, then start it.
    Restart,
}

/// Why a unit could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is none of that name.
    NoSuchUnit(String),
    /// It is masked.
    Masked(String),
}

impl Supervisor {
    /// A supervisor with nothing loaded.
    pub fn new(reaper: Arc<Reaper>) -> Result<Arc<Supervisor>> {
        Ok(Arc::new(Supervisor { reaper, state: Mutex::default(), changed: Condvar::new() }))
    }

    /// The state, for as long as the answer lives.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, at most `limit`, until something has changed.
    pub fn wait<'a>(&self, state: MutexGuard<'a, State>, limit: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Tells all waiters that something has changed.
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    /// Changes a loaded unit.
    pub fn change(&self, name: &str, how: impl FnOnce(&mut Unit)) {
        if let Some(unit) = self.lock().units.get_mut(name) {
            how(unit);
        }
        self.notify();
    }

    /// A copy of a unit, loaded first if it was not; a unit that is not running is read again, so that no reload is ever forgotten.
    pub fn load(&self, name: &str) -> Result<Unit, Refusal> {
        let found = match unit_file::find(name) {
            Found::Nothing => return Err(Refusal::NoSuchUnit(name.to_owned())),
            Found::Masked => return Err(Refusal::Masked(name.to_owned())),
            Found::Unit(file) => *file,
        };
        let mut state = self.lock();
        let unit = state.units.entry(name.to_owned()).or_insert_with(|| Unit::new(found.clone()));
        if unit.main_pid == 0 {
            unit.file = found;
        }
        Ok(unit.clone())
    }

    /// UnitFileState: "enabled", "disabled", "static", "masked", or empty for no such unit.
    pub fn file_state(&self, name: &str) -> &'static str {
        match unit_file::find(name) {
            Found::Nothing => "",
            Found::Masked => "masked",
            Found::Unit(file) if file.wanted_by.is_empty() => "static",
            Found::Unit(file) => {
                if file.wanted_by.iter().any(|target| super::boot::wants_link(target, name).symlink_metadata().is_ok())
                {
                    "enabled"
                } else {
                    "disabled"
                }
            }
        }
    }
}

/// Where a unit's processes write to.
pub fn log_of(name: &str) -> std::path::PathBuf {
    Path::new("/var/log").join(format!("{}.log", name.trim_end_matches(".service")))
}
