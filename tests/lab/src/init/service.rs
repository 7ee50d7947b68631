//! Starting and stopping what a unit stands for.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::supervisor::{Supervisor, log_of};
use super::unit::Unit;
use super::unit_file::{Restart, Type};

/// How long a service may take until it is ready.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a service may take to end after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// RestartSec of all services here; shorter than the real units' 5 and 10 seconds, to keep tests short.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// Starts a unit; answers the job's result.
pub fn start(supervisor: &Arc<Supervisor>, name: &str) -> &'static str {
    let Ok(unit) = supervisor.load(name) else {
        return "failed";
    };
    if unit.active == "active" {
        return "done";
    }
    if unit.file.conditions.iter().any(|(path, absent)| path.exists() == *absent) {
        return "done";
    }
    supervisor.change(name, |unit| {
        unit.stopping = false;
        unit.set("activating", "start");
    });
    match unit.file.kind.clone() {
        Type::Oneshot => run_to_end(supervisor, name, &unit),
        Type::Simple => launch(supervisor, name, &unit, |_| true),
        Type::Notify(socket) => {
            launch(supervisor, name, &unit, |supervisor| wait_for_socket(supervisor, name, &socket))
        }
    }
}

/// Stops a unit; answers the job's result.
pub fn stop(supervisor: &Arc<Supervisor>, name: &str) -> &'static str {
    let Ok(unit) = supervisor.load(name) else {
        return "done";
    };
    if unit.active == "active" {
        for argv in &unit.file.stop {
            run_command(supervisor, name, &unit, argv);
        }
    }
    let mut state = supervisor.lock();
    if let Some(unit) = state.units.get_mut(name) {
        unit.stopping = true;
        if unit.main_pid != 0 {
            unit.set("deactivating", "stop-sigterm");
        }
    }
    for (signal, limit) in [(Signal::SIGTERM, STOP_LIMIT), (Signal::SIGKILL, STOP_LIMIT)] {
        let until = Instant::now() + limit;
        let pid = state.units.get(name).map_or(0, |unit| unit.main_pid);
        if pid != 0 {
            let _ = kill(Pid::from_raw(pid), signal);
        }
        while state.units.get(name).is_some_and(|unit| unit.main_pid != 0) && Instant::now() < until {
            state = supervisor.wait(state, Duration::from_millis(100));
        }
    }
    drop(state);
    supervisor.change(name, |unit| unit.set("inactive", "dead"));
    "done"
}

/// Starts a unit's main process and waits until it is ready.
fn launch(
    supervisor: &Arc<Supervisor>,
    name: &str,
    unit: &Unit,
    is_ready: impl FnOnce(&Supervisor) -> bool,
) -> &'static str {
    let Some(argv) = unit.file.start.first() else {
        supervisor.change(name, |unit| unit.set("failed", "failed"));
        return "failed";
    };
    if !spawn(supervisor, name, unit, argv) {
        return "failed";
    }
    if !is_ready(supervisor) {
        return "failed";
    }
    supervisor.change(name, |unit| {
        if unit.main_pid != 0 {
            unit.set("active", "running");
        }
    });
    "done"
}

/// Runs all commands of a oneshot, one after the other.
fn run_to_end(supervisor: &Arc<Supervisor>, name: &str, unit: &Unit) -> &'static str {
    for argv in &unit.file.start {
        if !run_command(supervisor, name, unit, argv) {
            supervisor.change(name, |unit| {
                unit.result = "exit-code";
                if unit.stopping { unit.set("inactive", "dead") } else { unit.set("failed", "failed") }
            });
            restart_later(supervisor, name);
            return "failed";
        }
    }
    supervisor.change(name, |unit| {
        unit.result = "success";
        if unit.file.remain { unit.set("active", "exited") } else { unit.set("inactive", "dead") }
    });
    "done"
}

/// Runs one command of a unit to its end; true when it ended with exit code 0.
fn run_command(supervisor: &Arc<Supervisor>, name: &str, unit: &Unit, argv: &[String]) -> bool {
    if !spawn(supervisor, name, unit, argv) {
        return false;
    }
    let mut state = supervisor.lock();
    while state.units.get(name).is_some_and(|unit| unit.main_pid != 0) {
        state = supervisor.wait(state, Duration::from_secs(1));
    }
    state.units.get(name).is_some_and(|unit| unit.exit_code == 0)
}

/// Starts a process as the unit's main one.
fn spawn(supervisor: &Arc<Supervisor>, name: &str, unit: &Unit, argv: &[String]) -> bool {
    let (mine, unit_name) = (Arc::clone(supervisor), name.to_owned());
    // Held until the number is noted: the process may end before.
    let mut state = supervisor.lock();
    let spawned = supervisor.reaper.spawn(
        argv,
        &unit.file.environment,
        &log_of(name),
        Box::new(move |code| {
            // The reaper must not wait for a lock that its caller holds.
            std::thread::spawn(move || ended(&mine, &unit_name, code));
        }),
    );
    match spawned {
        Ok(pid) => {
            if let Some(unit) = state.units.get_mut(name) {
                unit.main_pid = pid;
            }
            true
        }
        Err(error) => {
            eprintln!("init: {name} could not be started: {error:#}");
            if let Some(unit) = state.units.get_mut(name) {
                unit.set("failed", "failed");
            }
            false
        }
    }
}

/// The main process has ended: notes it, and starts it again if the unit says so.
fn ended(supervisor: &Arc<Supervisor>, name: &str, code: i32) {
    let mut restart = false;
    supervisor.change(name, |unit| {
        (unit.main_pid, unit.exit_code) = (0, code);
        if unit.file.kind == Type::Oneshot || unit.stopping {
            return;
        }
        eprintln!("init: {name} ended with exit code {code}");
        unit.result = if code == 0 { "success" } else { "exit-code" };
        restart = true;
        if code == 0 { unit.set("inactive", "dead") } else { unit.set("failed", "failed") }
    });
    if restart {
        restart_later(supervisor, name);
    }
}

/// Starts a unit again after a second, if its file asks for it and nobody stopped it meanwhile.
fn restart_later(supervisor: &Arc<Supervisor>, name: &str) {
    let mut wanted = false;
    supervisor.change(name, |unit| {
        wanted = match unit.file.restart {
            Restart::No => false,
            Restart::OnFailure => unit.result != "success",
            Restart::Always => true,
        } && !unit.stopping;
        if wanted {
            unit.set("activating", "auto-restart");
        }
    });
    if !wanted {
        return;
    }
    let (supervisor, name) = (Arc::clone(supervisor), name.to_owned());
    std::thread::spawn(move || {
        std::thread::sleep(RESTART_AFTER);
        let still = supervisor.lock().units.get(&name).is_some_and(|unit| unit.sub == "auto-restart" && !unit.stopping);
        if still {
            supervisor.change(&name, |unit| unit.restarts += 1);
            start(&supervisor, &name);
        }
    });
}

/// Waits until a service accepts connections on its socket, or has ended.
fn wait_for_socket(supervisor: &Supervisor, name: &str, socket: &Path) -> bool {
    let until = Instant::now() + START_LIMIT;
    while Instant::now() < until {
        if UnixStream::connect(socket).is_ok() {
            return true;
        }
        if supervisor.lock().units.get(name).is_none_or(|unit| unit.main_pid == 0) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}
