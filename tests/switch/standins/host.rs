//! Throw-away nodes: a network and a mount namespace each, and the lab's programs in them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nodectl_lab::command;
use nodectl_lab::wait::eventually;
use serde_json::Value;

/// The lab's binary.
pub const LAB: &str = env!("CARGO_BIN_EXE_nodectl-lab");

/// Gives each node's private view of the machine: its own /run, and overlays where programs write.
const MOUNTS: &str = r#"set -e
mount -t tmpfs tmpfs /run
for d in etc var/lib opt; do
  key=$(echo $d | tr / -)
  mkdir -p /run/disk/$key/upper /run/disk/$key/work
  mount -t overlay overlay -o lowerdir=/$d,upperdir=/run/disk/$key/upper,workdir=/run/disk/$key/work /$d
done
mount -t sysfs sysfs /sys
rm -rf /etc/cni/net.d /opt/cni
mkdir -p /run/netns /run/lock /etc/cni/net.d /opt/cni/bin /etc/kubernetes/lab
ip link set lo up
echo up > /run/booted
exec sleep 1000000
"#;

/// Namespaces that live as long as this value.
pub struct Host {
    init: Child,
    /// The Node's name.
    pub name: String,
}

/// A program of the lab that runs on a host; killed at the end.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Host {
    /// Boots a host with nothing but a loopback link.
    pub fn new(name: &str) -> Host {
        let init = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "bash", "-c", MOUNTS])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare starts");
        let host = Host { init, name: name.to_owned() };
        eventually("the namespaces are ready", || {
            host.try_sh("test -e /run/booted && ip link show lo").is_ok_and(|text| text.contains("UP"))
        });
        host
    }

    /// The process that holds the namespaces.
    pub fn pid(&self) -> u32 {
        self.init.id()
    }

    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid().to_string(), "--net", "--mount", "--"]);
        command
    }

    /// Runs a shell script that may fail.
    pub fn try_sh(&self, script: &str) -> Result<String, String> {
        let output = command::output(self.enter().args(["bash", "-c", script]), "").expect("nsenter runs");
        if output.ok() { Ok(output.stdout) } else { Err(format!("{}{}", output.stdout, output.stderr)) }
    }

    /// Runs a shell script that must succeed.
    pub fn sh(&self, script: &str) -> String {
        self.try_sh(script).unwrap_or_else(|error| panic!("on {}: {script}: {error}", self.name))
    }

    /// Starts a program of the lab.
    pub fn start(&self, folder: &Path, args: &[&str], env: &[(&str, &str)]) -> Daemon {
        let log = folder.join(format!("{}-{}-{}.log", self.name, args.first().unwrap_or(&"lab"), unique()));
        let file = std::fs::File::create(&log).expect("a log file");
        let mut command = self.enter();
        command.arg("env").arg(format!("NODE_NAME={}", self.name));
        command.args(env.iter().map(|(key, value)| format!("{key}={value}")));
        command.arg(LAB).args(args).stdin(Stdio::null()).stdout(file.try_clone().expect("a handle")).stderr(file);
        Daemon { child: command.spawn().expect("the program starts"), log }
    }

    /// Runs a CNI plugin that stands in /opt/cni/bin; answers what it printed, or its error.
    pub fn cni(
        &self,
        plugin: &str,
        verb: &str,
        args: &str,
        container: &str,
        netns: &str,
        conf: &Value,
    ) -> Result<Value, String> {
        let mut command = self.enter();
        command.args(["env", "CNI_PATH=/opt/cni/bin", "CNI_IFNAME=eth0"]);
        command.args([
            format!("CNI_COMMAND={verb}"),
            format!("CNI_ARGS={args}"),
            format!("CNI_CONTAINERID={container}"),
            format!("CNI_NETNS={netns}"),
        ]);
        let output =
            command::output(command.arg(format!("/opt/cni/bin/{plugin}")), &conf.to_string()).expect("the plugin runs");
        if output.ok() {
            return Ok(serde_json::from_str(&output.stdout).unwrap_or(Value::String(output.stdout)));
        }
        Err(format!("{}{}", output.stdout, output.stderr))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The namespaces, and all links in them, go with their last process.
        let _ = self.init.kill();
        let _ = self.init.wait();
    }
}

impl Daemon {
    /// SIGTERM, and the wait for the end.
    pub fn stop(mut self) -> String {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("the program still runs");
        self.child.wait().expect("the program ends");
        self.log()
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for an init container's program.
    pub fn finish(mut self) -> String {
        let status = self.child.wait().expect("the program ends");
        let log = self.log();
        assert!(status.success(), "{status}: {log}");
        log
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- {}\n{}", self.log.display(), self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unique() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::SeqCst)
}
