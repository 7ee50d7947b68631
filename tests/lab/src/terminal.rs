//! A command on a terminal of its own: what it asks, and what somebody answers.

use std::io::{Read, Write};
use std::process::Stdio;

use anyhow::{Context, Result};

use crate::command::exit_code;
use crate::node::Node;
use crate::scenario::Done;

/// Runs a command on a pseudo-terminal of its own, which `script` makes; once it has asked, this happens, and then the answer
/// is typed.
pub fn on_terminal(
    node: &dyn Node,
    command: &str,
    meanwhile: impl FnOnce() -> Result<()>,
    answer: &str,
) -> Result<Done> {
    let mut process = node
        .command(&["script", "-qec", command, "/dev/null"])?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("script could not be started. To fix it: install bsdutils")?;
    let mut input = process.stdin.take().context("no input")?;
    let mut output = process.stdout.take().context("no output")?;
    let (mut seen, mut piece) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&seen).contains("[y/N]") {
        match output.read(&mut piece).context("the terminal could not be read")? {
            0 => break,
            n => seen.extend_from_slice(&piece[..n]),
        }
    }
    meanwhile()?;
    // The input stays open, or `script` would end the session.
    input.write_all(answer.as_bytes())?;
    output.read_to_end(&mut seen).context("the terminal could not be read")?;
    let rest = process.wait_with_output().context("script could not be waited for")?;
    drop(input);
    Ok(Done {
        code: exit_code(rest.status),
        stdout: String::from_utf8_lossy(&seen).into_owned(),
        stderr: String::from_utf8_lossy(&rest.stderr).into_owned(),
    })
}
