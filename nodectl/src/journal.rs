//! The write-ahead journal: append-only JSON lines, each on disk before the act that it announces.
//!
//! A crash leaves at most one step whose `begin` has no `done`; that step may be wholly, partly or not at all done, and
//! both doing it again and undoing it must be right. A torn last line is the mark of a power cut and is dropped.

mod debt;
mod log;
mod position;
mod timeline;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use debt::Debt;
pub use log::Log;
pub use position::{Course, Position};
pub use timeline::Timeline;

use crate::fault;
use crate::host::files;
use crate::plan::Plan;
use crate::step::Before;

/// Version of the journal's form, in its first record.
pub const JOURNAL_FORMAT: u32 = 1;

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record {
    /// First line: who, what, when.
    Open {
        /// [`JOURNAL_FORMAT`].
        format: u32,
        /// nodectl's version.
        tool: String,
        /// Run id.
        run: String,
        /// Boot id of the machine when the run began.
        boot_id: String,
        /// RFC 3339.
        at: String,
        /// Why, as given with `--reason`.
        #[serde(default)]
        reason: Option<String>,
        /// Who began it: a user, or a unit of systemd.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        /// The closed run that this one is the way back of, where it was begun by `revert`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        takes_back: Option<String>,
        /// The plan.
        plan: Box<Plan>,
    },
    /// The run is taken back unless it is confirmed by then; a timer of systemd's sees to it.
    Armed {
        /// RFC 3339.
        until: String,
        /// RFC 3339.
        at: String,
    },
    /// The run was confirmed.
    Confirmed {
        /// By whom.
        by: String,
        /// RFC 3339.
        at: String,
    },
    /// A process took the run up (again).
    Attach {
        /// Its pid.
        pid: u32,
        /// Boot id.
        boot_id: String,
        /// RFC 3339.
        at: String,
    },
    /// Step `n` is about to be done; this is what was there.
    Begin {
        /// Index into the plan.
        n: usize,
        /// Pre-image.
        before: Before,
        /// RFC 3339, to the millisecond.
        at: String,
    },
    /// Step `n` is done.
    Done {
        /// Index into the plan.
        n: usize,
        /// Milliseconds it took.
        ms: u64,
        /// When it was done: RFC 3339, to the millisecond.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<String>,
        /// What it found or measured.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        result: Value,
    },
    /// Step `n` failed.
    Failed {
        /// Index into the plan.
        n: usize,
        /// Why.
        error: String,
        /// When: RFC 3339, to the millisecond.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<String>,
        /// What it had found or measured.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        result: Value,
    },
    /// The run turns back.
    Reverting {
        /// Why.
        why: String,
        /// RFC 3339.
        at: String,
    },
    /// Step `n` is undone.
    Undone {
        /// Index into the plan.
        n: usize,
        /// Milliseconds it took.
        ms: u64,
        /// When it was undone: RFC 3339, to the millisecond.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<String>,
        /// What was found or measured on the way.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        result: Value,
    },
    /// Something that needs the API server, or has to wait for it.
    Owed {
        /// What.
        debt: Debt,
    },
    /// The debt is paid.
    Paid {
        /// What.
        debt: Debt,
    },
    /// Last line.
    Close {
        /// How the run ended.
        outcome: Outcome,
        /// RFC 3339.
        at: String,
    },
}

impl Record {
    /// Its time, where it has one.
    pub fn at(&self) -> Option<&str> {
        match self {
            Record::Open { at, .. }
            | Record::Armed { at, .. }
            | Record::Confirmed { at, .. }
            | Record::Attach { at, .. }
            | Record::Begin { at, .. }
            | Record::Reverting { at, .. }
            | Record::Close { at, .. } => Some(at),
            Record::Done { at, .. } | Record::Failed { at, .. } | Record::Undone { at, .. } => at.as_deref(),
            Record::Owed { .. } | Record::Paid { .. } => None,
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The node is on the CNI that was asked for.
    Switched,
    /// The node is as it was before the run.
    PutBack,
}

/// An open journal file.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Creates a new journal, on disk when this returns. It is there with its first record whole or not at all: one without
    /// could not be told from one that was damaged.
    pub fn create(path: &Path, open: &Record) -> Result<Journal> {
        let context = || format!("could not create the journal {}", path.display());
        if files::exists(path) {
            bail!("{}: it is there already", context());
        }
        files::write_atomic(path, &line(open)?, 0o600).with_context(context)?;
        let file = OpenOptions::new().append(true).open(path).with_context(context)?;
        fault::point("journal.appended");
        Ok(Journal { path: path.to_owned(), file })
    }

    /// Opens an existing journal to append; a torn last line is cut off first.
    pub fn open(path: &Path) -> Result<(Journal, Log)> {
        let bytes = std::fs::read(path).with_context(|| format!("could not read the journal {}", path.display()))?;
        let (log, whole) = parse(&bytes, path)?;
        let file = OpenOptions::new()
            .append(true)
            .open(path)
            .with_context(|| format!("could not open the journal {}", path.display()))?;
        if whole < bytes.len() {
            file.set_len(whole as u64).with_context(|| format!("could not mend the end of {}", path.display()))?;
            file.sync_all().with_context(|| format!("could not sync {}", path.display()))?;
        }
        Ok((Journal { path: path.to_owned(), file }, log))
    }

    /// What the journal holds by now.
    pub fn log(&self) -> Result<Log> {
        read(&self.path)
    }

    /// Appends a record; it is on disk when this returns. Where it cannot be written whole, none of it stays: half a line in
    /// the middle would make the journal unreadable.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        fault::point("journal.append");
        let line = line(record)?;
        let whole = self.file.metadata().context("could not look at the journal")?.len();
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        if written.is_err() {
            // Shrinking needs no room on the disk.
            let _ = self.file.set_len(whole).and_then(|()| self.file.sync_data());
        }
        written.with_context(|| {
            format!("could not write the journal {}. To fix it: make room on that file system", self.path.display())
        })?;
        fault::point("journal.appended");
        Ok(())
    }
}

/// Reads a journal without touching it.
pub fn read(path: &Path) -> Result<Log> {
    let bytes = std::fs::read(path).with_context(|| format!("could not read the journal {}", path.display()))?;
    Ok(parse(&bytes, path)?.0)
}

/// The records and how many bytes of whole lines they take.
fn parse(bytes: &[u8], path: &Path) -> Result<(Log, usize)> {
    let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    let mut records = Vec::new();
    for (i, line) in bytes[..whole].split(|b| *b == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let record = serde_json::from_slice(line)
            .with_context(|| format!("line {} of the journal {} does not parse", i + 1, path.display()))?;
        records.push(record);
    }
    match records.first() {
        Some(Record::Open { format, .. }) if *format != JOURNAL_FORMAT => {
            bail!("the journal {} has format {format}, this nodectl reads format {JOURNAL_FORMAT}", path.display())
        }
        Some(Record::Open { .. }) => Ok((Log { records }, whole)),
        None => bail!("the journal {} is empty", path.display()),
        Some(_) => bail!("the journal {} does not begin with an open record", path.display()),
    }
}

fn line(record: &Record) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(record).context("could not encode a journal record")?;
    line.push(b'\n');
    Ok(line)
}
