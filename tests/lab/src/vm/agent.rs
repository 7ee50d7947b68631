//! The line to the program in a machine (`vm/init`): a script in base64 goes in, what it wrote and `END CODE` come out.

use std::io::{BufRead, BufReader, Read, Write};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::command::Output;

/// Both ends of the line, as files or sockets.
pub(super) struct Agent<R, W> {
    answers: BufReader<R>,
    input: W,
}

impl<R: Read, W: Write> Agent<R, W> {
    /// A line that is there; the machine may be booting still.
    pub(super) fn new(answers: R, input: W) -> Agent<R, W> {
        Agent { answers: BufReader::new(answers), input }
    }

    /// Waits for the end of the boot.
    pub(super) fn booted(&mut self) -> Result<()> {
        let said = self.line()?;
        ensure!(said == "READY", "the machine said {said:?} instead of READY");
        Ok(())
    }

    /// Runs a shell script; both of its outputs come as one.
    pub(super) fn run(&mut self, script: &str) -> Result<Output> {
        writeln!(self.input, "{}", STANDARD.encode(script)).context("the machine does not take the script")?;
        let text = STANDARD.decode(self.line()?).context("the machine's answer is not base64")?;
        let end = self.line()?;
        let code = end.strip_prefix("END ").and_then(|code| code.parse().ok());
        let code = code.with_context(|| format!("the machine said {end:?} instead of the exit code"))?;
        Ok(Output { code, stdout: String::from_utf8_lossy(&text).into_owned(), stderr: String::new() })
    }

    /// Runs a script whose every command must succeed; answers what it wrote.
    pub(super) fn must(&mut self, script: &str) -> Result<String> {
        let done = self.run(&format!("set -e\n{script}"))?;
        ensure!(done.ok(), "the script ended with {}: {}", done.code, done.stdout);
        Ok(done.stdout)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let n = self.answers.read_line(&mut line).context("the machine's answer cannot be read")?;
        ensure!(n > 0, "the machine has ended");
        Ok(line.trim().to_owned())
    }
}
