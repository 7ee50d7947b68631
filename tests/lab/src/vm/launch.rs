//! The launcher of a node that is a machine: makes its disk at the first start, boots it on the underlay, and starts in it what would
//! make a light node here, or waits for what a full node's systemd starts. The machine is killed when standard input closes.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::agent::Agent;
use super::disk::{self, DISK};
use super::{Boot, NOT_STARTED, build, built, qemu_argv};
use crate::command;
use crate::node::Spec;

/// How long a machine may take to answer.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// What waits for the runtime and the kubelet of a full node; the boot may go on, or have failed somewhere else.
const UNITS_ARE_UP: &str =
    "for _ in $(seq 300); do systemctl -q is-active containerd.service kubelet.service && break; sleep 0.2; done";

/// The program `launch-machine SPEC`.
pub fn main(arguments: &[String]) -> Result<ExitCode> {
    let [path] = arguments else {
        bail!("usage: nodectl-lab launch-machine SPEC");
    };
    let spec = Spec::read(Path::new(path))?;
    let image = image(&spec);
    if !image.exists() {
        disk::light(&spec, &image)?;
    }
    let folder = build_for(&spec)?;
    let booted = boot(&spec, &Boot::of(&folder), &outer_mac(&spec), &node_script(&spec));
    // qemu has read what is in it, and keeps the console open.
    let removed = fs::remove_dir_all(&folder).context("what the machine booted from could not be removed");
    let qemu = booted?;
    removed?;
    wait(qemu)
}

/// The program `launch-full-machine SPEC`.
pub fn full(arguments: &[String]) -> Result<ExitCode> {
    let [path] = arguments else {
        bail!("usage: nodectl-lab launch-full-machine SPEC");
    };
    let spec = Spec::read(Path::new(path))?;
    let shared = built(&["--from-disk".as_ref()])?;
    let image = image(&spec);
    if !image.exists() {
        disk::full(&spec, &image, &shared.join("modules"))?;
    }
    let from =
        Boot { initrd: shared.join("initrd-disk"), console: spec.folder.join("machine.log"), ..Boot::of(&shared) };
    wait(boot(&spec, &from, &spec.mac(), UNITS_ARE_UP)?)
}

/// The file that is the machine's disk.
fn image(spec: &Spec) -> PathBuf {
    spec.folder.join("disk.img")
}

/// Waits for the machine's end.
fn wait(mut qemu: Child) -> Result<ExitCode> {
    let status = qemu.wait().context("qemu could not be waited for")?;
    Ok(ExitCode::from(u8::try_from(command::exit_code(status)).unwrap_or(1)))
}

/// What the machine boots from: the lab, and what it wants besides; with plugins come the libraries that all of them need.
fn build_for(spec: &Spec) -> Result<PathBuf> {
    let lab = std::env::current_exe().context("this program's own file")?;
    let mut programs = vec![lab, "dbus-daemon".into(), "nsenter".into(), spec.opt.join("cni/bin/host-local")];
    programs.extend(spec.binds.iter().map(|(from, _)| from.clone()).filter(|from| from.ends_with("flannel")));
    build(&programs.iter().map(PathBuf::as_path).collect::<Vec<_>>())
}

/// Boots the machine; the script ends when the node in it is there. Answers the node's owner.
fn boot(spec: &Spec, from: &Boot, mac: &str, script: &str) -> Result<Child> {
    plug_in(spec)?;
    let mut qemu = start(spec, from, mac)?;
    let pid = Pid::from_raw(i32::try_from(qemu.id()).context("qemu has an impossible number")?);
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        let _ = std::io::stdin().read_to_end(&mut rest);
        // The power cut: of what the machine's kernel holds in memory nothing reaches the disk any more.
        let _ = kill(pid, Signal::SIGKILL);
    });
    say(&format!("pid {pid}"))?;
    let line = connect(&spec.line(), &mut qemu)?;
    let mut agent = Agent::new(line.try_clone().context("the machine's line")?, line);
    agent.booted()?;
    agent.must(script)?;
    say("ready")?;
    Ok(qemu)
}

/// Answers the node's owner.
fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("the cluster does not listen")
}

/// The machine's port on the underlay bridge.
fn plug_in(spec: &Spec) -> Result<()> {
    let (underlay, port) = (&spec.underlay, spec.port());
    command::run(&["ip", "-n", underlay, "tuntap", "add", "dev", &port, "mode", "tap"])?;
    command::run(&["ip", "-n", underlay, "link", "set", &port, "master", "ul0", "up"]).map(drop)
}

/// Starts qemu in the underlay's network.
fn start(spec: &Spec, from: &Boot, mac: &str) -> Result<Child> {
    // ENOENT at the first boot.
    let _ = fs::remove_file(spec.line());
    let mut qemu = Command::new("nsenter");
    qemu.arg(format!("--net=/run/netns/{}", spec.underlay)).args(["--", "setpriv", "--pdeathsig", "KILL"]);
    qemu.args(qemu_argv(from));
    qemu.args(["-chardev", &format!("socket,id=line,server=on,wait=off,path={}", spec.line().display())]);
    qemu.args(["-serial", "chardev:line"]);
    // A third line, for what a test wants to hear of at once.
    qemu.args(["-serial", &format!("file:{}", spec.folder.join("heard").display())]);
    qemu.args(["-drive", &format!("file={},format=raw,if=virtio,cache=writeback", image(spec).display())]);
    qemu.args(["-netdev", &format!("tap,id=eth0,ifname={},script=no,downscript=no", spec.port())]);
    qemu.args(["-device", &format!("virtio-net-pci,netdev=eth0,mac={mac}")]);
    qemu.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context(NOT_STARTED)
}

/// The MAC of the machine's own device where it carries the frames of a node that has its own.
fn outer_mac(spec: &Spec) -> String {
    spec.mac().replacen("02:00", "02:01", 1)
}

/// Connects to the machine's line as soon as qemu has made it.
fn connect(line: &Path, qemu: &mut Child) -> Result<UnixStream> {
    let until = Instant::now() + BOOT_LIMIT;
    loop {
        if let Ok(stream) = UnixStream::connect(line) {
            stream.set_read_timeout(Some(BOOT_LIMIT)).context("the machine's line")?;
            return Ok(stream);
        }
        if let Some(status) = qemu.try_wait().context("qemu could not be waited for")? {
            bail!("qemu ended at once ({status})");
        }
        if Instant::now() > until {
            bail!("qemu made no line to the machine within {} s", BOOT_LIMIT.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What the machine does: its disk, the underlay's bridge with its own device as a port, then the node's launcher, which stays.
fn node_script(spec: &Spec) -> String {
    let underlay = &spec.underlay;
    // ext4 would bring a file to the disk that is renamed over another one; a program that does not sync has no right to that.
    format!(
        "for module in virtio_pci virtio_blk virtio_net overlay; do modprobe $module; done
         mkdir -p {DISK} /usr/bin && mount -t ext4 -o noauto_da_alloc /dev/vda {DISK}
         /busybox/busybox --install -s /bin; ln -sf /usr/sbin/dash /bin/sh; ln -s /usr/sbin/dbus-daemon /usr/bin/dbus-daemon
         rmdir /var/run; ln -s /run /var/run
         echo root:x:0:0:root:/root:/bin/sh >/etc/passwd; echo root:x:0: >/etc/group
         own=$(ls /sys/class/net | grep -v '^lo$'); ip netns add {underlay}; ip link set $own netns {underlay} name own
         printf 'link set lo up\\nlink add ul0 type bridge forward_delay 0\\nlink set ul0 up\\nlink set own master ul0 up\\n' |
             ip -n {underlay} -batch -
         mkfifo /run/held; sleep 1000000 >/run/held &
         nodectl-lab launch {DISK}/node/spec.json </run/held >/run/launched 2>&1 &
         until grep -q '^ready' /run/launched; do kill -0 $! || {{ cat /run/launched; exit 1; }}; usleep 20000; done
         sed -n 's/^pid //p' /run/launched >/run/node.pid"
    )
}
