//! A virtual machine with Debian's own kernel, for what namespaces cannot have: kernel modules that come and go.
//!
//! It is emulated, so that it runs where there is no KVM; up in some seconds, since its one program is a shell.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::command::{self, Output};

/// How long a machine may live, in seconds.
const LIFE: &str = "400";

/// A virtual machine, which ends with this value.
pub struct Machine {
    child: Child,
    input: ChildStdin,
    answers: BufReader<ChildStdout>,
    folder: PathBuf,
}

impl Machine {
    /// Boots one with these programs in its path.
    pub fn boot(programs: &[&Path]) -> Result<Machine> {
        let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("vm/build");
        let mut argv = vec![build.as_os_str()];
        argv.extend(programs.iter().map(|program| program.as_os_str()));
        let folder = PathBuf::from(command::run(&argv)?.trim());
        let console = folder.join("console");
        let mut qemu = Command::new("timeout");
        // Whatever becomes of the tests, no machine outlives them for long.
        qemu.args(["--kill-after=5", LIFE, "setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35"]);
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"]);
        qemu.arg("-kernel").arg(folder.join("vmlinuz")).arg("-initrd").arg(folder.join("initrd"));
        qemu.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable random.trust_cpu=on"]);
        qemu.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
        let mut child = qemu
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("qemu could not be started. To fix it: run tests/provision")?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("qemu has no standard input and output");
        };
        let mut machine = Machine { child, input, answers: BufReader::new(output), folder };
        let said = machine.line()?;
        ensure!(said == "READY", "the machine said {said:?} instead of READY");
        Ok(machine)
    }

    /// Runs a shell script; both of its outputs come as one.
    pub fn run(&mut self, script: &str) -> Result<Output> {
        writeln!(self.input, "{}", STANDARD.encode(script)).context("the machine does not take the script")?;
        let text = STANDARD.decode(self.line()?).context("the machine's answer is not base64")?;
        let end = self.line()?;
        let code = end.strip_prefix("END ").and_then(|code| code.parse().ok());
        let code = code.with_context(|| format!("the machine said {end:?} instead of the exit code"))?;
        Ok(Output { code, stdout: String::from_utf8_lossy(&text).into_owned(), stderr: String::new() })
    }

    /// Runs a script whose every command must succeed; answers what it wrote.
    pub fn must(&mut self, script: &str) -> Result<String> {
        let done = self.run(&format!("set -e\n{script}"))?;
        ensure!(done.ok(), "the script ended with {}: {}", done.code, done.stdout);
        Ok(done.stdout)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let n = self.answers.read_line(&mut line).context("the machine's answer cannot be read")?;
        if n == 0 {
            let console = std::fs::read_to_string(self.folder.join("console")).unwrap_or_default();
            bail!("the machine has ended; its console: {console}");
        }
        Ok(line.trim().to_owned())
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
