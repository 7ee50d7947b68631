//! One delegate, run to its end or to its deadline.

use crate::error::{self, Error};
use crate::process;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// More output than this is dropped; what is left of a result then does not parse.
const OUTPUT_LIMIT: usize = 1 << 20;
/// How much of it is taken at once.
const PUMPED: u64 = 1 << 19;
/// How often to look whether the delegate is gone while a process that it left behind keeps its output open. libcni waits
/// for such a process for ever (pkg/invoke/raw_exec.go has no WaitDelay).
const TICK: Duration = Duration::from_millis(100);
/// How long a killed process may take to die.
const DEATH: Duration = Duration::from_secs(2);

/// How a delegate ended.
#[derive(Debug)]
pub struct Outcome {
    /// `None`: it was killed at the deadline.
    pub status: Option<ExitStatus>,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
}

impl Outcome {
    /// Standard output of a success; else the delegate's own error, or one in libcni's words (raw_exec.go, pluginErr) with
    /// `whose` it is, and what to do, for its details: the runtime will name the shim.
    pub fn result(self, whose: &str) -> Result<Vec<u8>, Error> {
        let fix = |fix| format!("{whose}. To fix it: {fix}");
        let failed = |msg| Err(Error::new(error::INTERNAL, msg, fix("call it by hand, or see its log")));
        match self.status {
            Some(status) if status.success() => Ok(self.stdout),
            None => {
                let msg = "netplugin did not end before its deadline and was killed";
                let what =
                    "see what it waits for (its API server, the lock of iptables); the runtime tries again by itself";
                Err(Error::new(error::TRY_LATER, msg, fix(what)))
            }
            Some(status) if self.stdout.is_empty() && self.stderr.is_empty() => {
                failed(format!("netplugin failed with no error message: {status}"))
            }
            Some(_) if self.stdout.is_empty() => {
                failed(format!("netplugin failed: {:?}", beginning(&self.stderr, 4096)))
            }
            Some(status) => match serde_json::from_slice::<Error>(&self.stdout) {
                // The runtime would show an empty sentence.
                Ok(error) if error.msg.is_empty() && error.details.is_empty() => {
                    failed(format!("netplugin failed with no error message: {status}"))
                }
                Ok(error) => Err(error),
                Err(cause) => {
                    let text = beginning(&self.stdout, 200);
                    failed(format!("netplugin failed but error parsing its diagnostic message {text:?}: {cause}"))
                }
            },
        }
    }
}

/// The first bytes of some output, as text.
pub fn beginning(bytes: &[u8], limit: usize) -> String {
    String::from_utf8_lossy(bytes.get(..limit).unwrap_or(bytes)).into_owned()
}

/// Runs a delegate in a process group of its own, with our environment plus `environment`, `input` on standard input.
/// At the deadline the whole group is killed: a delegate's own delegate may be what hangs.
pub fn run(path: &Path, environment: &[(&str, &str)], input: &[u8], deadline: Instant) -> Result<Outcome, Error> {
    refuse_ourselves(path)?;
    let mut child = spawn(path, environment, deadline)?;
    let mut streams = match Streams::of(&mut child, input) {
        Ok(streams) => streams,
        Err(cause) => {
            kill_group(&mut child);
            return Err(Error::io("talk to", path)(cause));
        }
    };
    let status = supervise(&mut child, &mut streams, deadline);
    match status {
        Some(status) if status.success() => {}
        Some(_) => await_group(&child),
        None => kill_group(&mut child),
    }
    Ok(Outcome { status, stdout: streams.out, stderr: streams.err })
}

/// A delegate that is the shim itself would start itself for ever.
pub(crate) fn refuse_ourselves(path: &Path) -> Result<(), Error> {
    // Asked once: each look into /proc costs more than the rest of this.
    static OURSELVES: OnceLock<Option<(u64, u64)>> = OnceLock::new();
    let identity = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let ourselves = *OURSELVES.get_or_init(|| identity(Path::new("/proc/self/exe")));
    let named_so = path.file_name().is_some_and(|name| name == crate::conflist::TYPE);
    if named_so || (ourselves.is_some() && identity(path) == ourselves) {
        let fix = "To fix it: let the shim's \"backends\" name flannel's and Calico's own conflists";
        return Err(Error::new(error::CONFIG, format!("{} is the shim itself", path.display()), fix));
    }
    Ok(())
}

fn spawn(path: &Path, environment: &[(&str, &str)], deadline: Instant) -> Result<Child, Error> {
    let mut command = Command::new(path);
    // What our own environment says already is inherited as it stands; std copies all of one that it is to change.
    let others = environment.iter().filter(|(name, value)| std::env::var_os(name).is_none_or(|own| own != *value));
    command.envs(others.copied()).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A binary that is just being written (an installer's plain cp): six tries, like libcni, which then forgets the error
    // and calls it a success.
    let mut tries = 1;
    loop {
        match command.spawn() {
            Err(cause) if cause.kind() == ErrorKind::ExecutableFileBusy => {
                let left = deadline.saturating_duration_since(Instant::now());
                if tries == 6 || left.is_zero() {
                    let msg = format!("{} is being written", path.display());
                    let fix = format!("{cause}. To fix it: let its installer end; the runtime tries again by itself");
                    return Err(Error::new(error::TRY_LATER, msg, fix));
                }
                sleep(Duration::from_secs(1).min(left));
            }
            spawned => {
                let hint = |cause| format!("{cause}. To fix it: install the plugin again");
                return spawned.map_err(|cause| Error::io("run", path)(hint(cause)));
            }
        }
        tries += 1;
    }
}

fn supervise(child: &mut Child, streams: &mut Streams<'_>, deadline: Instant) -> Option<ExitStatus> {
    let mut looked = Instant::now();
    while streams.are_open() {
        let now = Instant::now();
        if now >= deadline {
            return None;
        }
        streams.pump(TICK.min(deadline - now));
        if looked.elapsed() >= TICK {
            looked = Instant::now();
            if let Some(status) = ended(child) {
                streams.pump(Duration::ZERO);
                return Some(status);
            }
        }
    }
    reap(child, deadline)
}

fn reap(child: &mut Child, until: Instant) -> Option<ExitStatus> {
    let mut nap = Duration::from_micros(50);
    loop {
        match ended(child) {
            Some(status) => return Some(status),
            None if Instant::now() < until => sleep(nap),
            None => return None,
        }
        nap = (nap * 2).min(Duration::from_millis(20));
    }
}

/// How the delegate ended, if it has. What a failed one leaves of its group is killed, while the group's id cannot be anyone
/// else's yet: a delegate of its own (an IPAM plugin) that ended its ADD after the chain was undone would leak.
fn ended(child: &mut Child) -> Option<ExitStatus> {
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::Pid(group(child)), peek) {
        Ok(WaitStatus::StillAlive) => return None,
        Ok(WaitStatus::Exited(_, 0)) | Err(_) => {}
        Ok(_) => drop(killpg(group(child), Signal::SIGKILL)),
    }
    child.try_wait().ok().flatten()
}

/// The delegate leads its group, so both have one id.
fn group(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))
}

fn kill_group(child: &mut Child) {
    let _ = killpg(group(child), Signal::SIGKILL);
    reap(child, Instant::now() + DEATH);
    await_group(child);
}

/// Waits until the last of a group that was killed is dead. It may stay a zombie: its parent by now is init.
fn await_group(child: &Child) {
    let until = Instant::now() + DEATH;
    while killpg(group(child), None).is_ok() && process::group_lives(child.id()) && Instant::now() < until {
        sleep(Duration::from_millis(1));
    }
}

/// The three pipes, moved without blocking: a delegate may write before it reads, or not read at all.
struct Streams<'a> {
    input: &'a [u8],
    stdin: Option<File>,
    stdout: Option<File>,
    stderr: Option<File>,
    out: Vec<u8>,
    err: Vec<u8>,
}

impl<'a> Streams<'a> {
    fn of(child: &mut Child, input: &'a [u8]) -> nix::Result<Self> {
        let stdin = child.stdin.take().map(|pipe| File::from(OwnedFd::from(pipe)));
        let stdout = child.stdout.take().map(|pipe| File::from(OwnedFd::from(pipe)));
        let stderr = child.stderr.take().map(|pipe| File::from(OwnedFd::from(pipe)));
        for pipe in [&stdin, &stdout, &stderr].into_iter().flatten() {
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        let (out, err) = (Vec::with_capacity(2048), Vec::with_capacity(2048));
        Ok(Self { input, stdin, stdout, stderr, out, err })
    }

    fn are_open(&self) -> bool {
        self.stdout.is_some() || self.stderr.is_some()
    }

    fn pump(&mut self, wait: Duration) {
        let mut fds = Vec::with_capacity(3);
        fds.extend(self.stdin.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)));
        fds.extend(self.stdout.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        fds.extend(self.stderr.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        let _ = poll(&mut fds, PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO));
        self.feed();
        drain(&mut self.stdout, &mut self.out);
        drain(&mut self.stderr, &mut self.err);
    }

    fn feed(&mut self) {
        while let Some(pipe) = &mut self.stdin {
            match pipe.write(self.input) {
                Ok(written) if written < self.input.len() => self.input = self.input.get(written..).unwrap_or_default(),
                Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => return,
                // All is written, or nobody reads it (EPIPE), which is the delegate's own business.
                _ => self.stdin = None,
            }
        }
    }
}

fn drain(pipe: &mut Option<File>, into: &mut Vec<u8>) {
    let Some(reader) = pipe else { return };
    // Bounded, so that a delegate that never stops writing meets its deadline.
    match reader.take(PUMPED).read_to_end(into) {
        Ok(read) if read as u64 == PUMPED => {}
        Err(cause) if cause.kind() == ErrorKind::WouldBlock => {}
        // It is closed, or broken.
        _ => *pipe = None,
    }
    into.truncate(OUTPUT_LIMIT);
}
