//! Virtual machines with Debian's own kernel, for what namespaces cannot have: kernel modules that come and go ([`Machine`]), and a
//! disk that loses in a power cut what was not synced ([`MachineNode`]).
//!
//! They are emulated, so that they run where there is no KVM; up in some seconds where their one program is a shell, in some more
//! where it is Debian's systemd.

mod agent;
mod disk;
pub mod enter;
pub mod launch;
mod node;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::command::{self, Output};
use agent::Agent;
pub use node::MachineNode;

/// How long a machine may live, in seconds.
const LIFE: &str = "400";

/// A virtual machine, which ends with this value.
pub struct Machine {
    child: Child,
    agent: Agent<ChildStdout, ChildStdin>,
    folder: PathBuf,
}

impl Machine {
    /// Boots one with these programs in its path.
    pub fn boot(programs: &[&Path]) -> Result<Machine> {
        let folder = build(programs)?;
        // Whatever becomes of the tests, no machine outlives them for long.
        let mut qemu = Command::new("timeout");
        qemu.args(["--kill-after=5", LIFE, "setpriv", "--pdeathsig", "KILL"]).args(qemu_argv(&Boot::of(&folder)));
        qemu.args(["-serial", "stdio"]);
        let mut child =
            qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().context(NOT_STARTED)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("qemu has no standard input and output");
        };
        let mut machine = Machine { child, agent: Agent::new(output, input), folder };
        let booted = machine.agent.booted();
        booted.with_context(|| machine.console())?;
        Ok(machine)
    }

    /// Runs a shell script; both of its outputs come as one.
    pub fn run(&mut self, script: &str) -> Result<Output> {
        let done = self.agent.run(script);
        done.with_context(|| self.console())
    }

    /// Runs a script whose every command must succeed; answers what it wrote.
    pub fn must(&mut self, script: &str) -> Result<String> {
        let done = self.agent.must(script);
        done.with_context(|| self.console())
    }

    fn console(&self) -> String {
        format!("the machine's console: {}", std::fs::read_to_string(self.folder.join("console")).unwrap_or_default())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

const NOT_STARTED: &str = "qemu could not be started. To fix it: run tests/provision";

/// A folder with what a machine boots from, these programs in its path.
fn build(programs: &[&Path]) -> Result<PathBuf> {
    built(&programs.iter().map(|program| program.as_os_str()).collect::<Vec<_>>())
}

/// What `vm/build` prints.
fn built(arguments: &[&OsStr]) -> Result<PathBuf> {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("vm/build");
    Ok(PathBuf::from(command::run(&[&[build.as_os_str()], arguments].concat())?.trim()))
}

/// What a machine boots from, and where its console goes.
struct Boot {
    kernel: PathBuf,
    initrd: PathBuf,
    console: PathBuf,
}

impl Boot {
    /// The folder that [`build`] has made.
    fn of(folder: &Path) -> Boot {
        let [kernel, initrd, console] = ["vmlinuz", "initrd", "console"].map(|name| folder.join(name));
        Boot { kernel, initrd, console }
    }
}

/// The command line of a machine; the second serial line, which its program answers on, is the caller's to add.
fn qemu_argv(boot: &Boot) -> Vec<String> {
    let kernel = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable random.trust_cpu=on net.ifnames=0";
    let fixed = "qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot -machine q35 \
        -accel tcg,thread=multi -cpu max -smp 2 -m 1024";
    let mut argv: Vec<String> = fixed.split_whitespace().map(str::to_owned).collect();
    let [image, initrd, console] = [&boot.kernel, &boot.initrd, &boot.console].map(|path| path.display().to_string());
    argv.extend(["-kernel".into(), image, "-initrd".into(), initrd, "-append".into(), kernel.into()]);
    argv.extend(["-serial".into(), format!("file:{console}")]);
    argv
}
