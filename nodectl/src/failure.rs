//! How a command can end badly: the few outcomes that scripts tell apart, each with its exit code.

use std::fmt;

/// Exit codes, as documented in nodectl(8).
pub mod code {
    /// Done, or nothing to do.
    pub const DONE: u8 = 0;
    /// Failed, nothing changed.
    pub const FAILED: u8 = 1;
    /// Changes are pending; only with `--detailed-exitcode`.
    pub const PENDING: u8 = 2;
    /// Refused by preflight.
    pub const REFUSED: u8 = 3;
    /// Failed, and put back.
    pub const PUT_BACK: u8 = 4;
    /// Needs hands, or owes something.
    pub const NEEDS_HANDS: u8 = 5;
    /// Used wrongly.
    pub const USAGE: u8 = 64;
    /// Busy, try again.
    pub const BUSY: u8 = 75;
}

/// An outcome with an exit code of its own. Every other error is exit 1: failed, nothing changed.
#[derive(Debug)]
pub enum Failure {
    /// Another nodectl holds the lock.
    Busy(String),
    /// Preflight, a drifted plan or an answer at the prompt says no; nothing was changed.
    Refused(String),
    /// The run failed and the node is as it was.
    PutBack(String),
    /// The same, for want of a plan that has every pod: [`Overtaken`].
    Overtaken(String),
    /// The run failed and could not be put back whole, or owes something to the API server.
    NeedsHands(String),
    /// The command line makes no sense.
    Usage(String),
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Busy(_) => code::BUSY,
            Failure::Refused(_) => code::REFUSED,
            Failure::PutBack(_) | Failure::Overtaken(_) => code::PUT_BACK,
            Failure::NeedsHands(_) => code::NEEDS_HANDS,
            Failure::Usage(_) => code::USAGE,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Busy(text)
            | Failure::Refused(text)
            | Failure::PutBack(text)
            | Failure::Overtaken(text)
            | Failure::NeedsHands(text)
            | Failure::Usage(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Failure {}

/// Pods have come since the plan was made, `namespace/name` each: it has no steps for them.
#[derive(Debug)]
pub struct Overtaken(pub Vec<String>);

impl fmt::Display for Overtaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} came after the plan was made; without a step of its own its sandbox would be rebuilt, which --unadoptable refuse \
             forbids. To fix it: run it again",
            self.0.join(", ")
        )
    }
}

impl std::error::Error for Overtaken {}

/// The exit code that an error stands for.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    error.downcast_ref::<Failure>().map_or(code::FAILED, Failure::code)
}
