//! Running other programs, with errors that say what was run and what it answered.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// What a finished program left: exit code (128 + signal when killed), both outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The exit code, or 128 + N for a program ended by signal N.
    pub code: i32,
    /// Standard output as text.
    pub stdout: String,
    /// Standard error as text.
    pub stderr: String,
}

impl Output {
    /// True when the program ended with exit code 0.
    pub fn ok(&self) -> bool {
        self.code == 0
    }
}

/// Runs a program to its end, whatever its exit code, with `stdin` as its input.
pub fn output(command: &mut Command, stdin: &str) -> Result<Output> {
    let shown = show(command);
    let mut child = command
        .stdin(if stdin.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| {
            format!("`{shown}` could not be started. To fix it: install what `tests/provision install` lists")
        })?;
    // A second thread feeds the input: a program that answers before it has read all would block both sides.
    let feeder = child.stdin.take().map(|mut pipe| {
        let input = stdin.to_owned();
        std::thread::spawn(move || pipe.write_all(input.as_bytes()))
    });
    let result = child.wait_with_output().with_context(|| format!("`{shown}` could not be waited for"))?;
    if let Some(feeder) = feeder {
        // EPIPE is no error: a program need not read its input.
        let _ = feeder.join();
    }
    Ok(Output {
        code: exit_code(result.status),
        stdout: String::from_utf8_lossy(&result.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&result.stderr).into_owned(),
    })
}

/// What to say where the lab's own binary does not start.
pub fn lab_not_started(binary: &Path) -> String {
    format!("the lab's binary {} could not be started. To fix it: cargo build -p nodectl-lab", binary.display())
}

/// Runs a program that must succeed; answers its standard output.
pub fn run<S: AsRef<OsStr>>(argv: &[S]) -> Result<String> {
    run_with_input(argv, "")
}

/// Runs a program that must succeed, with `stdin` as its input; answers its standard output.
pub fn run_with_input<S: AsRef<OsStr>>(argv: &[S], stdin: &str) -> Result<String> {
    let mut command = from_argv(argv)?;
    let shown = show(&command);
    let result = output(&mut command, stdin)?;
    if !result.ok() {
        bail!("`{shown}` failed with exit code {}: {}", result.code, result.stderr.trim());
    }
    Ok(result.stdout)
}

/// A command from an argument vector.
pub fn from_argv<S: AsRef<OsStr>>(argv: &[S]) -> Result<Command> {
    let Some((program, arguments)) = argv.split_first() else {
        bail!("no program was named");
    };
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

/// The exit code as a shell shows it.
pub fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255)
}

/// The command line as text, for messages.
fn show(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}
