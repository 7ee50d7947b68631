//! What people and scripts get to read: results on stdout, progress and the log on stderr.

mod cleanup_text;
mod doctor_text;
mod motd_text;
mod plan_text;
mod preflight_text;
mod probe_text;
mod progress;
mod run_text;
mod shim_text;
mod status_text;

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

use crate::failure::code;
use crate::remedy::Told;

pub use cleanup_text::{cleanup_text, stays_text};
pub use doctor_text::{doctor_nagios, doctor_prometheus, doctor_text};
pub use motd_text::motd_text;
pub use plan_text::plan_text;
pub use preflight_text::{preflight_text, warnings_text};
pub use probe_text::probe_text;
pub use progress::{Progress, ProgressFormat};
pub use run_text::{Past, RunSummary, history_text, run_text};
pub use shim_text::{reaped_text, shim_text};
pub use status_text::status_text;

/// Version of every JSON document on stdout.
pub const SCHEMA_VERSION: u32 = 1;

/// How results are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON document.
    Json,
}

/// Whether stdout has its one document already.
static WRITTEN: AtomicBool = AtomicBool::new(false);

/// With `--output json`, a failure is a document too, unless the command has written one: a script reads stdout either way.
pub fn failure(format: OutputFormat, error: &anyhow::Error) {
    if format == OutputFormat::Text || WRITTEN.load(Ordering::Relaxed) {
        return;
    }
    let code = crate::failure::exit_code(error);
    let outcome = match code {
        code::PUT_BACK => "put-back",
        code::NEEDS_HANDS => "needs-hands",
        code::REFUSED => "refused",
        code::USAGE => "usage",
        code::BUSY => "busy",
        _ => "failed",
    };
    let data = json!({ "outcome": outcome, "exit_code": code, "error": Told::of_error(error).to_string() });
    // What was put back has cost pods their place all the same: "nothing changed" would be too much.
    let changed = code == code::NEEDS_HANDS || code == code::PUT_BACK;
    // The exit code and stderr say the same; a closed stdout is no further failure.
    let _ = result(format, "", &data, changed);
}

/// Writes one of several results to stdout: its text and an empty line, or its data as a document on one line.
pub fn one_of_many(format: OutputFormat, text: &str, data: &impl Serialize) -> Result<()> {
    WRITTEN.store(true, Ordering::Relaxed);
    let line = match format {
        OutputFormat::Text => format!("{text}\n"),
        OutputFormat::Json => format!("{}\n", document(data, false)?),
    };
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).context("could not write to stdout")
}

/// Writes a result to stdout: its text, or its data as one JSON document with `schema_version` and `changed`.
pub fn result(format: OutputFormat, text: &str, data: &impl Serialize, changed: bool) -> Result<()> {
    WRITTEN.store(true, Ordering::Relaxed);
    let mut out = std::io::stdout().lock();
    let written = match format {
        OutputFormat::Text => out.write_all(text.as_bytes()),
        OutputFormat::Json => {
            let document = document(data, changed)?;
            let text = serde_json::to_string_pretty(&document).context("could not encode the result")?;
            out.write_all(format!("{text}\n").as_bytes())
        }
    };
    match written.and_then(|()| out.flush()) {
        // `nodectl status | head` is no failure.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("could not write to stdout"),
    }
}

fn document(data: &impl Serialize, changed: bool) -> Result<Value> {
    let mut document = json!({ "schema_version": SCHEMA_VERSION, "changed": changed });
    match serde_json::to_value(data).context("could not encode the result")? {
        Value::Object(fields) => fields.into_iter().for_each(|(k, v)| document[k] = v),
        other => document["result"] = other,
    }
    Ok(document)
}

/// Whether this stream may carry colour: a terminal, and NO_COLOR unset.
pub fn colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// A word in bold where colour is allowed.
pub(crate) fn bold(text: &str) -> String {
    if colour(&std::io::stdout()) { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// Text wrapped at 100 columns, later lines indented.
pub(crate) fn wrap(text: &str, indent: usize) -> String {
    wrap_at(100, text, indent)
}

/// The same at another width. A word that is longer than a line stays whole.
pub(crate) fn wrap_at(width: usize, text: &str, indent: usize) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().map_or(0, |l| l.chars().count());
        if line + word.chars().count() + 1 + indent > width && line > 0 {
            lines.push(String::new());
        }
        if let Some(last) = lines.last_mut() {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines.join(&format!("\n{}", " ".repeat(indent)))
}
