//! One line a step, with its time, on stderr; or one JSON object a step.

use std::io::{IsTerminal, Write};

use serde_json::{Value, json};

use crate::clock;
use crate::journal::Debt;
use crate::step::Step;

/// How progress is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ProgressFormat {
    /// For people.
    #[default]
    Text,
    /// JSON lines.
    Json,
    /// Not at all.
    None,
}

/// Shows how a run goes.
#[derive(Debug)]
pub struct Progress {
    format: ProgressFormat,
    total: usize,
    terminal: bool,
}

impl Progress {
    /// For a run of so many steps.
    pub fn new(format: ProgressFormat, total: usize) -> Progress {
        Progress { format, total, terminal: std::io::stderr().is_terminal() }
    }

    /// A step begins. On a terminal its line stands there while it works.
    pub fn begin(&mut self, n: usize, step: &Step) {
        self.started("step", n, step, &step.title());
    }

    /// A step is done.
    pub fn end(&mut self, n: usize, step: &Step, ms: u64) {
        self.finished("done", n, step, &step.title(), Some(ms));
    }

    /// A step is being undone.
    pub fn begin_undo(&mut self, n: usize, step: &Step) {
        if let Some(title) = step.undo_title() {
            self.started("undo", n, step, &format!("back: {title}"));
        }
    }

    /// A step is undone.
    pub fn end_undo(&mut self, n: usize, step: &Step, ms: u64) {
        if let Some(title) = step.undo_title() {
            self.finished("undone", n, step, &format!("back: {title}"), Some(ms));
        }
    }

    /// The undoing of a step failed.
    pub fn undo_failed(&mut self, n: usize, step: &Step, ms: u64) {
        let title = step.undo_title().unwrap_or_else(|| step.title());
        self.finished("failed", n, step, &format!("back: {title}: FAILED"), Some(ms));
    }

    /// A step failed.
    pub fn failed(&mut self, n: usize, step: &Step, ms: u64) {
        self.finished("failed", n, step, &format!("{}: FAILED", step.title()), Some(ms));
    }

    /// A debt is being paid.
    pub fn paying(&mut self, debt: &Debt) {
        match self.format {
            ProgressFormat::Text => self.write(&format!("  owed: {}\n", debt.describe())),
            ProgressFormat::Json => self.line(&json!({ "event": "paying", "what": debt.describe() })),
            ProgressFormat::None => {}
        }
    }

    /// A sentence between steps.
    pub fn say(&mut self, sentence: &str) {
        match self.format {
            ProgressFormat::Text => self.write(&format!("{sentence}\n")),
            ProgressFormat::Json => self.line(&json!({ "event": "note", "text": sentence })),
            ProgressFormat::None => {}
        }
    }

    fn started(&mut self, event: &str, n: usize, step: &Step, title: &str) {
        match self.format {
            ProgressFormat::Text if self.terminal => self.write(&format!("\r{} ...\u{1b}[K", self.head(n, title))),
            ProgressFormat::Json => {
                self.line(
                    &json!({ "event": event, "n": n + 1, "of": self.total, "step": step.name(), "at": clock::now() }),
                );
            }
            _ => {}
        }
    }

    fn finished(&mut self, event: &str, n: usize, step: &Step, title: &str, ms: Option<u64>) {
        match self.format {
            ProgressFormat::Text => {
                let start = if self.terminal { "\r" } else { "" };
                let clear = if self.terminal { "\u{1b}[K" } else { "" };
                let time = ms.map(clock::spent).unwrap_or_default();
                self.write(&format!("{start}{:<88} {time:>9}{clear}\n", self.head(n, title)));
            }
            ProgressFormat::Json => {
                self.line(&json!({ "event": event, "n": n + 1, "of": self.total, "step": step.name(), "ms": ms }));
            }
            ProgressFormat::None => {}
        }
    }

    fn head(&self, n: usize, title: &str) -> String {
        let title: String = title.chars().take(78).collect();
        format!("  [{:>2}/{}] {title}", n + 1, self.total)
    }

    fn line(&self, value: &Value) {
        self.write(&format!("{value}\n"));
    }

    /// A reader that has gone away must not end a run.
    fn write(&self, text: &str) {
        let mut err = std::io::stderr().lock();
        let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
    }
}
