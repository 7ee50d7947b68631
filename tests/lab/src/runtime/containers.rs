//! Containers: created, started, stopped, removed; their ends noticed.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::records::{Container, encode, new_id, now};
use super::{Runtime, command, process};
use crate::command::exit_code;
use crate::cri::{self, ContainerConfig};

/// containerd's exit code for a container whose end nobody saw.
const UNKNOWN: i32 = 255;

/// Makes a container in a sandbox that is ready.
pub fn create(runtime: &Runtime, sandbox: &str, config: &ContainerConfig) -> Result<String> {
    let sandbox = runtime.store.sandboxes.get(sandbox)?;
    let image = config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
    if command::argv(config).is_none() {
        bail!("failed to resolve image {image:?}: a light node runs only the lab's own images (lab/NAME)");
    }
    let id = new_id()?;
    let container = Container {
        id: id.clone(),
        sandbox: sandbox.id,
        config: encode(config),
        created_at: now(),
        started_at: 0,
        finished_at: 0,
        pid: 0,
        ticks: 0,
        exit_code: 0,
    };
    runtime.store.containers.put(&id, container)?;
    Ok(id)
}

/// Starts a container's process and watches for its end.
pub fn start(runtime: &Arc<Runtime>, id: &str) -> Result<()> {
    let container = runtime.store.containers.get(id)?;
    if container.started_at != 0 {
        bail!("container {id:?} is not in created state");
    }
    let sandbox = runtime.store.sandboxes.get(&container.sandbox)?;
    if !sandbox.ready {
        bail!("sandbox container {:?} is not running", sandbox.id);
    }
    let child = match spawn(&container.config(), &sandbox.config().log_directory, sandbox.netns.as_deref()) {
        Ok(child) => child,
        Err(error) => {
            runtime.store.containers.change(&container.id, |container| {
                (container.started_at, container.finished_at, container.exit_code) = (now(), now(), 128);
            })?;
            return Err(error.context(format!("failed to start container {id:?}")));
        }
    };
    let pid = i32::try_from(child.id()).context("a process has an impossible number")?;
    runtime.store.containers.change(&container.id, |container| {
        (container.pid, container.started_at) = (pid, now());
        container.ticks = process::start_ticks(pid).unwrap_or_default();
    })?;
    let (runtime, id) = (Arc::clone(runtime), container.id);
    std::thread::spawn(move || {
        let mut child = child;
        let code = child.wait().map_or(UNKNOWN, exit_code);
        ended(&runtime, &id, code);
    });
    Ok(())
}

/// Stops a container: SIGTERM, `timeout` seconds, SIGKILL.
pub fn stop(runtime: &Runtime, id: &str, timeout: i64) -> Result<()> {
    let container = runtime.store.containers.get(id)?;
    if container.is_running() {
        process::end(container.pid, container.ticks, Duration::from_secs(timeout.try_into().unwrap_or_default()));
    }
    // The thread that watches may not have noted it yet; the caller expects the state to be right.
    for _ in 0..200 {
        if runtime.store.containers.get(&container.id).is_ok_and(|now| !now.is_running()) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("an error occurs during waiting for container {id:?} to be killed")
}

/// Runs a command where a running container is; a `timeout` of 0 is none.
pub fn exec(runtime: &Runtime, id: &str, command: &[String], timeout: i64) -> Result<cri::ExecSyncResponse> {
    let container = runtime.store.containers.get(id)?;
    if !container.is_running() {
        bail!("container is in CONTAINER_EXITED state");
    }
    let sandbox = runtime.store.sandboxes.get(&container.sandbox)?;
    let mut argv = vec!["timeout".to_owned(), timeout.max(0).to_string()];
    argv.extend(super::command::resolve(&container.config(), command));
    let mut process = process_in(&container.config(), &argv, sandbox.netns.as_deref())?;
    let result = crate::command::output(&mut process, "")?;
    Ok(cri::ExecSyncResponse {
        stdout: result.stdout.into_bytes(),
        stderr: result.stderr.into_bytes(),
        exit_code: result.code,
    })
}

/// Removes a container, stopping it first.
pub fn remove(runtime: &Runtime, id: &str) -> Result<()> {
    let Ok(container) = runtime.store.containers.get(id) else {
        return Ok(());
    };
    if container.is_running() {
        stop(runtime, &container.id, 0)?;
    }
    runtime.store.containers.remove(&container.id);
    Ok(())
}

/// After a restart: watches the processes that still run, and notes those that have ended meanwhile.
pub fn recover(runtime: &Arc<Runtime>) {
    for container in runtime.store.containers.all().into_iter().filter(Container::is_running) {
        let runtime = Arc::clone(runtime);
        let (pid, ticks, id) = (container.pid, container.ticks, container.id);
        if !process::is_alive(pid, ticks) {
            ended(&runtime, &id, UNKNOWN);
            continue;
        }
        std::thread::spawn(move || {
            // No child of this process: its end can only be looked for.
            while process::is_alive(pid, ticks) {
                std::thread::sleep(Duration::from_millis(100));
            }
            ended(&runtime, &id, UNKNOWN);
        });
    }
}

/// Notes a container's end.
fn ended(runtime: &Runtime, id: &str, code: i32) {
    let noted = runtime.store.containers.change(id, |container| {
        (container.pid, container.finished_at, container.exit_code) = (0, now(), code);
    });
    if let Err(error) = noted {
        eprintln!("runtime: the end of container {id} could not be noted: {error:#}");
    }
}

/// A command with a container's environment, folder, mounts and network.
fn process_in(config: &ContainerConfig, argv: &[String], netns: Option<&str>) -> Result<Command> {
    let mut process = Command::new("/proc/self/exe");
    process.arg("enter");
    if let Some(netns) = netns {
        process.args(["--netns", netns]);
    }
    for mount in config.mounts.iter().filter(|mount| mount.host_path != mount.container_path) {
        process.args(["--bind", &mount.host_path, &mount.container_path]);
    }
    process.arg("--").args(argv);
    process.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    process.envs(command::environment(config));
    process.envs(config.envs.iter().map(|variable| (&variable.key, &variable.value)));
    process.current_dir(if config.working_dir.is_empty() { "/" } else { &config.working_dir });
    Ok(process)
}

/// Starts the process.
fn spawn(config: &ContainerConfig, logs: &str, netns: Option<&str>) -> Result<Child> {
    let argv = command::argv(config).context("the image has no program")?;
    let mut process = process_in(config, &argv, netns)?;
    process.process_group(0).stdin(Stdio::null());
    if logs.is_empty() || config.log_path.is_empty() {
        process.stdout(Stdio::null()).stderr(Stdio::null());
    } else {
        let path = Path::new(logs).join(&config.log_path);
        path.parent()
            .map_or(Ok(()), fs::create_dir_all)
            .with_context(|| format!("{} could not be made", path.display()))?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("{} could not be opened", path.display()))?;
        process.stdout(log.try_clone().context("the log could not be shared")?).stderr(log);
    }
    process.spawn().with_context(|| format!("{argv:?} could not be started"))
}
