//! The one error type: the error object of the CNI specification.

use serde::{Deserialize, Serialize};
use std::io::Write as _;

/// The configuration's CNI version is not supported.
pub const VERSION: u32 = 1;
/// The runtime's environment variables are missing or invalid.
pub const ENVIRONMENT: u32 = 4;
/// Reading or writing failed.
pub const IO: u32 = 5;
/// Something that should be JSON is not, or a plugin's answer is unusable.
pub const DECODE: u32 = 6;
/// The network configuration is invalid.
pub const CONFIG: u32 = 7;
/// Nothing was done; the same call may succeed later.
pub const TRY_LATER: u32 = 11;
/// STATUS: no ADD can succeed now.
pub const UNAVAILABLE: u32 = 50;
/// STATUS: no ADD can succeed now, and existing pods may have lost connectivity.
pub const LIMITED: u32 = 51;
/// The shim refuses: this attachment exists already.
pub const ATTACHED: u32 = 100;
/// An error to which a delegate gave no code (libcni's ErrInternal).
pub const INTERNAL: u32 = 999;

/// A CNI error object: what happened, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// One of this module's codes, or the one that a delegate gave.
    #[serde(default = "internal")]
    pub code: u32,
    /// What happened, to what.
    #[serde(default)]
    pub msg: String,
    /// Why, and how to fix it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

fn internal() -> u32 {
    INTERNAL
}

impl Error {
    /// An error with a message and its details.
    pub fn new(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: details.into() }
    }

    /// For `map_err` on input and output: `Error::io("read", path)`.
    pub fn io<E: std::fmt::Display>(verb: &str, path: &std::path::Path) -> impl FnOnce(E) -> Self {
        move |cause| Self::new(IO, format!("cannot {verb} {}", path.display()), cause.to_string())
    }

    /// The same for a file that is changed.
    pub fn disk<E: std::fmt::Display>(verb: &str, path: &std::path::Path) -> impl FnOnce(E) -> Self {
        let error = Self::io(verb, path);
        move |cause| error(format!("{cause}. To fix it: see whether its disk is full, failing, or can only be read"))
    }

    /// The same error without the two phrases that make go-cni take a failed DEL for a success ("not found" always,
    /// "no such file or directory" when the netns path is empty: go-cni cni.go, Remove).
    pub fn unswallowed(mut self) -> Self {
        for text in [&mut self.msg, &mut self.details] {
            *text = replace_ignoring_case(text, "not found", "missing");
            *text = replace_ignoring_case(text, "no such file or directory", "file is missing (ENOENT)");
        }
        self
    }
}

fn replace_ignoring_case(text: &str, phrase: &str, by: &str) -> String {
    let (lower, mut rest, mut out) = (text.to_ascii_lowercase(), 0, String::new());
    while let Some(at) = lower.get(rest..).and_then(|tail| tail.find(phrase)) {
        out.push_str(text.get(rest..rest + at).unwrap_or_default());
        out.push_str(by);
        rest += at + phrase.len();
    }
    out + text.get(rest..).unwrap_or_default()
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.msg)?;
        if !self.details.is_empty() {
            write!(f, ": {}", self.details)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// A line on standard error, which the runtime logs: for what is no reason to fail.
pub fn log(what: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "cni-shim: {what}");
}
