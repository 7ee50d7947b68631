//! The launcher of a full node: makes its namespaces, network, cgroup and root, and boots them with systemd-nspawn.
//!
//! A process of its own, for the reasons that a light node's is, and one more: nspawn dies without taking its container along, so somebody must
//! be there to kill the node's cgroup.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::cgroup::Cgroup;
use super::disk;
use crate::init::network;
use crate::node::{Spec, launch::plug_in, units};

/// Where systemd expects the cgroup2 hierarchy.
const HIERARCHY: &str = "/sys/fs/cgroup";
/// How long systemd may take to start.
const BOOT_LIMIT: Duration = Duration::from_secs(20);
/// How long the boot waits for the runtime and the kubelet: units that come first may take as long as they like.
const UNITS_LIMIT: Duration = Duration::from_secs(15);
/// Joins the cgroup, then becomes the program: a process that is forked in the cgroup is in it from the start.
const IN_CGROUP: &str = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";

/// The program `launch-full SPEC`.
pub fn main(arguments: &[String]) -> Result<ExitCode> {
    let [path] = arguments else {
        bail!("usage: nodectl-lab launch-full SPEC");
    };
    let spec = Spec::read(Path::new(path))?;
    let cluster = spec.folder.parent().and_then(Path::file_name).context("the node's folder is in no cluster's")?;
    let mut cgroup = Cgroup::make(&cluster.to_string_lossy(), &spec.name)?;
    let lower = super::layers(&spec)?;
    // Before any thread exists: namespaces belong to threads.
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .context("new namespaces were refused. To fix it: run as root")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("the mounts could not be made private")?;
    plug_in(&spec)?;
    network::set_up(&spec)?;
    disk::set_up(&spec, &lower)?;
    hide_the_machine()?;
    cgroup.moved_to(Path::new(HIERARCHY));
    let killer = cgroup.killer()?;
    let mut nspawn = start(&spec, cgroup.path())?;
    std::thread::spawn(move || kill_at_end_of_input(killer));
    let pid = wait_for_pid_1(&mut nspawn, &cgroup)?;
    say(&format!("pid {pid}"))?;
    wait_for_units(&mut nspawn, pid)?;
    say("ready")?;
    let status = nspawn.wait().context("systemd-nspawn could not be waited for")?;
    Ok(ExitCode::from(u8::try_from(crate::command::exit_code(status)).unwrap_or(1)))
}

/// Answers the node's owner.
fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("the cluster does not listen")
}

/// In this mount namespace alone: a cgroup2 hierarchy where systemd expects it, and a /run that nspawn's own files may go to.
fn hide_the_machine() -> Result<()> {
    // Whatever hierarchies are there stay with the machine. EINVAL: nothing is mounted there.
    let _ = umount2(HIERARCHY, MntFlags::MNT_DETACH);
    mount(Some("cgroup2"), HIERARCHY, Some("cgroup2"), MsFlags::empty(), None::<&str>)
        .context("cgroup2 could not be mounted. To fix it: use a kernel that has it")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .context("a private /run could not be mounted")?;
    fs::create_dir_all("/run/systemd/nspawn").context("/run/systemd/nspawn could not be made")
}

/// Starts nspawn in the node's cgroup, in this process' network.
fn start(spec: &Spec, cgroup: &Path) -> Result<Child> {
    let (root, containerd) = (disk::root(spec), disk::containerd(spec));
    let mut command = Command::new("sh");
    command.args(["-c", IN_CGROUP]).arg(cgroup).arg("systemd-nspawn");
    command.args([
        "--quiet",
        "--boot",
        "--settings=no",
        // Neither the machine's systemd nor its machined is asked for anything, if it has them.
        "--register=no",
        "--keep-unit",
        "--kill-signal=SIGRTMIN+3",
        "--link-journal=no",
        "--resolv-conf=off",
        "--timezone=off",
        "--console=pipe",
        "--capability=all",
        // runc wants a session keyring, and loads its device rules as BPF.
        "--system-call-filter=@keyring bpf",
    ]);
    command.arg(format!("--directory={}", root.display()));
    command.arg(format!("--machine={}", spec.name)).arg(format!("--hostname={}", spec.name));
    command.arg(format!("--bind={}:/var/lib/containerd", containerd.display()));
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    // Network settings can be written, as this network is the node's own; all others are the machine's.
    command.env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network");
    let console = fs::OpenOptions::new().create(true).append(true).open(spec.console_file());
    let console = console.context("the node's console could not be opened")?;
    command
        .stdin(Stdio::null())
        .stderr(console.try_clone().context("the console could not be shared")?)
        .stdout(console);
    command.spawn().context("systemd-nspawn could not be started. To fix it: apt-get install systemd-container")
}

/// Waits for the container's systemd.
fn wait_for_pid_1(nspawn: &mut Child, cgroup: &Cgroup) -> Result<i32> {
    let processes = cgroup.path().join("payload/init.scope/cgroup.procs");
    let until = Instant::now() + BOOT_LIMIT;
    while Instant::now() < until {
        let listed = fs::read_to_string(&processes).unwrap_or_default();
        if let Some(pid) = listed.lines().find(|pid| is_pid_1(pid)) {
            return pid.parse().context("PID 1 has an impossible number");
        }
        stop_waiting_if_ended(nspawn)?;
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("no systemd runs in the container after {} s", BOOT_LIMIT.as_secs())
}

/// True for a process that is number 1 of its own process namespace.
fn is_pid_1(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
}

/// Waits until systemd has started the runtime and the kubelet, or has nothing left to start.
fn wait_for_units(nspawn: &mut Child, pid: i32) -> Result<()> {
    let bus = Path::new("/proc").join(pid.to_string()).join("root").join(units::BUS.trim_start_matches('/'));
    let until = Instant::now() + UNITS_LIMIT;
    while Instant::now() < until {
        // Until the bus daemon runs there is nobody to ask.
        if bus.exists() && has_booted(&bus).unwrap_or(false) {
            return Ok(());
        }
        stop_waiting_if_ended(nspawn)?;
        std::thread::sleep(Duration::from_millis(10));
    }
    // A unit may take its time before the runtime; the node is on all the same.
    Ok(())
}

/// True when the boot is over, or both services run.
fn has_booted(bus: &Path) -> Result<bool> {
    if matches!(units::system_state(bus)?.as_str(), "running" | "degraded" | "maintenance") {
        return Ok(true);
    }
    let is_active = |unit| Ok::<bool, anyhow::Error>(units::state(bus, unit)?.active == "active");
    Ok(is_active("containerd.service")? && is_active("kubelet.service")?)
}

/// An error when nspawn has ended.
fn stop_waiting_if_ended(nspawn: &mut Child) -> Result<()> {
    if let Some(status) = nspawn.try_wait().context("systemd-nspawn could not be waited for")? {
        bail!("systemd-nspawn ended at once ({status})");
    }
    Ok(())
}

/// Waits until nobody holds the other end of standard input, then kills everything in the node.
fn kill_at_end_of_input(mut killer: fs::File) {
    let mut rest = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut rest);
    // ENODEV: it is off and its cgroup removed already.
    let _ = killer.write_all(b"1");
}
