//! Programs on a node that is a machine: `in-machine SOCKET PROGRAM ARGS...` runs one to its end there, with what comes on standard
//! input, and answers as it did. One at a time, as the machine has one line.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::fcntl::{Flock, FlockArg};

use super::agent::Agent;
use crate::node::exec::ENVIRONMENT;

/// The program `in-machine`.
pub fn main(arguments: &[String]) -> Result<ExitCode> {
    let [socket, argv @ ..] = arguments else {
        bail!("usage: nodectl-lab in-machine SOCKET PROGRAM [ARGS...]");
    };
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input).context("the program's input could not be read")?;
    let done = run(Path::new(socket), &script(argv, &input))?;
    let mut streams = done.1.lines().map(|line| STANDARD.decode(line).context("an output is not base64"));
    let mut next = || streams.next().context("the machine did not answer with both outputs")?;
    std::io::stdout().write_all(&next()?).context("nobody reads the program's output")?;
    std::io::stderr().write_all(&next()?).context("nobody reads the program's errors")?;
    Ok(ExitCode::from(u8::try_from(done.0).unwrap_or(u8::MAX)))
}

/// Runs a script on the machine itself; its exit code and what it wrote.
pub(super) fn run(socket: &Path, script: &str) -> Result<(i32, String)> {
    let lock = std::fs::File::create(socket.with_extension("lock")).context("the machine's line has no lock")?;
    let _alone =
        Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno).context("the machine's line")?;
    let line = UnixStream::connect(socket).context("the machine is off")?;
    let mut agent = Agent::new(line.try_clone().context("the machine's line")?, line);
    agent.run(script).map(|done| (done.code, done.stdout))
}

/// The script for a program in the node's namespaces, where the machine is not the node itself: base64 of what it writes, base64 of
/// its errors, its exit code.
fn script(argv: &[String], input: &[u8]) -> String {
    let mut words = vec!["$enter env -i".to_owned()];
    words.extend(ENVIRONMENT.map(|(name, value)| format!("{name}={value}")));
    let passed = std::env::vars().filter(|(name, _)| name.starts_with("NODECTL_"));
    words.extend(passed.map(|(name, value)| quoted(&format!("{name}={value}"))));
    words.extend(argv.iter().map(|word| quoted(word)));
    format!(
        "enter=; [ ! -e /run/node.pid ] || enter=\"nsenter -t $(cat /run/node.pid) -m -n -p -u -i --wdns=/ -- /busybox/busybox\"
         echo '{}' | base64 -d >/run/input
         {} </run/input >/run/output 2>/run/errors; code=$?
         for stream in output errors; do base64 /run/$stream | tr -d '\\n'; echo; done
         exit $code",
        STANDARD.encode(input),
        words.join(" ")
    )
}

/// A word as the shell takes it, whatever is in it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}
