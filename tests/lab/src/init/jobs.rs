//! Jobs: queued, ordered by Before= and After=, run one per unit at a time.

use std::sync::Arc;
use std::time::Duration;

use super::service;
use super::supervisor::{Job, JobKind, Refusal, State, Supervisor};

/// A job's number and the unit it is for.
pub type Queued = u32;

/// Puts a job into the queue; it does not run before `run` is called for it.
pub fn queue(supervisor: &Supervisor, kind: JobKind, unit: &str) -> Result<Queued, Refusal> {
    supervisor.load(unit)?;
    let mut state = supervisor.lock();
    state.last_job += 1;
    let id = state.last_job;
    state.jobs.insert(id, Job { unit: unit.to_owned(), kind });
    Ok(id)
}

/// Runs a queued job in a thread of its own; `done` gets the unit's name and the job's result.
pub fn run(supervisor: &Arc<Supervisor>, id: Queued, done: impl FnOnce(&str, &'static str) + Send + 'static) {
    let supervisor = Arc::clone(supervisor);
    std::thread::spawn(move || {
        let Some(job) = wait_for_turn(&supervisor, id) else {
            return;
        };
        let result = match job.kind {
            JobKind::Start => service::start(&supervisor, &job.unit),
            JobKind::Stop => service::stop(&supervisor, &job.unit),
            JobKind::Restart => {
                service::stop(&supervisor, &job.unit);
                service::start(&supervisor, &job.unit)
            }
        };
        supervisor.lock().jobs.remove(&id);
        supervisor.notify();
        done(&job.unit, result);
    });
}

/// Waits until nothing that comes first is left.
fn wait_for_turn(supervisor: &Supervisor, id: Queued) -> Option<Job> {
    let mut state = supervisor.lock();
    loop {
        let job = state.jobs.get(&id)?.clone();
        if !is_blocked(&state, id, &job) {
            return Some(job);
        }
        state = supervisor.wait(state, Duration::from_secs(1));
    }
}

/// True while another job must end first: an older one of the same unit, or a start of a unit that is ordered before this one.
///
/// This is also what makes a oneshot that is Before= a service, and restarts that service and waits for it, hang: as it does on a real node.
fn is_blocked(state: &State, id: Queued, job: &Job) -> bool {
    state.jobs.iter().any(|(other_id, other)| {
        if *other_id == id {
            return false;
        }
        if other.unit == job.unit {
            return *other_id < id;
        }
        job.kind != JobKind::Stop && other.kind != JobKind::Stop && comes_first(state, &other.unit, &job.unit)
    })
}

/// True when `first` is ordered before `second` by either unit's file.
fn comes_first(state: &State, first: &str, second: &str) -> bool {
    let named = |unit: &str, other: &str, list: fn(&super::unit_file::UnitFile) -> &Vec<String>| {
        state.units.get(unit).is_some_and(|unit| list(&unit.file).iter().any(|name| name == other))
    };
    named(first, second, |file| &file.before) || named(second, first, |file| &file.after)
}
