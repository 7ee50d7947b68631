//! One line a step, with its time, on stderr; or one JSON object a step.

use std::io::{IsTerminal, Write};

use serde_json::{Value, json};

use crate::clock;
use crate::events::{self, Event};
use crate::host::systemd;
use crate::journal::Debt;
use crate::report::wrap_at;
use crate::step::Step;

/// Columns of a title: with what stands before it and the time behind it, a line has 80.
const TITLE: usize = 80 - "  [nn/nn] ".len() - " 59 min 59 s".len();

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

/// Shows how a run goes: on stderr, in `systemctl status` and in the system's journal.
#[derive(Debug)]
pub struct Progress {
    run: String,
    format: ProgressFormat,
    total: usize,
    terminal: bool,
}

impl Progress {
    /// For a run of so many steps.
    pub fn new(run: &str, format: ProgressFormat, total: usize) -> Progress {
        Progress { run: run.to_owned(), format, total, terminal: std::io::stderr().is_terminal() }
    }

    /// A step begins. On a terminal its line stands there while it works.
    pub fn begin(&mut self, n: usize, step: &Step) {
        self.started("step", n, step, &step.title());
    }

    /// A step is done.
    pub fn end(&mut self, n: usize, step: &Step, ms: u64) {
        self.tell(Event::StepDone, n, step, &format!("{}, {}", step.title(), clock::spent(ms)));
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
            self.tell(Event::StepUndone, n, step, &format!("back: {title}, {}", clock::spent(ms)));
            self.finished("undone", n, step, &format!("back: {title}"), Some(ms));
        }
    }

    /// The undoing of a step failed.
    pub fn undo_failed(&mut self, n: usize, step: &Step, ms: u64) {
        let title = step.undo_title().unwrap_or_else(|| step.title());
        self.tell(Event::StepFailed, n, step, &format!("back: {title}: failed"));
        self.finished("failed", n, step, &format!("back: {title}: FAILED"), Some(ms));
    }

    /// A step failed.
    pub fn failed(&mut self, n: usize, step: &Step, ms: u64) {
        self.tell(Event::StepFailed, n, step, &format!("{}: failed", step.title()));
        self.finished("failed", n, step, &format!("{}: FAILED", step.title()), Some(ms));
    }

    /// A debt is being paid.
    pub fn paying(&mut self, debt: &Debt) {
        systemd::notify_status(&format!("owed: {}", debt.describe()));
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

    fn tell(&self, event: Event, n: usize, step: &Step, what: &str) {
        let message = format!("step {}/{}: {what}", n + 1, self.total);
        events::tell(event, &self.run, &message, &[("NODECTL_STEP", step.name())]);
    }

    fn started(&mut self, event: &str, n: usize, step: &Step, title: &str) {
        events::doing(n + 1, self.total, title);
        match self.format {
            // A line that the terminal breaks could not be written over.
            ProgressFormat::Text if self.terminal => {
                let title = wrap_at(TITLE, title, 0);
                let first = title.lines().next().unwrap_or_default();
                self.write(&format!("\r{}{first} ...\u{1b}[K", head(n, self.total)));
            }
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
                let (line, rest) = lines(n, self.total, title, &time);
                self.write(&format!("{start}{line}{clear}\n{rest}"));
            }
            ProgressFormat::Json => {
                self.line(&json!({ "event": event, "n": n + 1, "of": self.total, "step": step.name(), "ms": ms }));
            }
            ProgressFormat::None => {}
        }
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

fn head(n: usize, total: usize) -> String {
    format!("  [{:>2}/{total:>2}] ", n + 1)
}

/// The line of a step that has ended, and those below it where its title is too long for one.
fn lines(n: usize, total: usize, title: &str, time: &str) -> (String, String) {
    let head = head(n, total);
    let title = wrap_at(TITLE, title, 0);
    let (first, below) = title.split_once('\n').unwrap_or((&title, ""));
    let indent = " ".repeat(head.len());
    let below = below.lines().map(|line| format!("{indent}{line}\n")).collect();
    let time_columns = 80 - head.len() - TITLE;
    (format!("{head}{first:<TITLE$}{time:>time_columns$}"), below)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::Cni;

    #[test]
    fn no_line_is_longer_than_a_terminal_and_no_word_is_lost() {
        let pods = vec!["a/b".to_owned(); 12];
        let stop = Step::StopSandboxes { made_by: Cni::Flannel, pods, spare: Vec::new() };
        for title in [stop.title(), "cordon the node".into(), format!("back: {}: FAILED", stop.title())] {
            let (line, below) = lines(13, 22, &title, &clock::spent(3_599_000));
            let all = format!("{line}\n{below}");
            assert!(all.lines().all(|l| l.chars().count() <= 80), "{all}");
            assert!(line.starts_with("  [14/22] ") && line.ends_with(" 59 min 59 s"), "{all}");
            title.split_whitespace().for_each(|word| assert!(all.contains(word), "{word} is not in {all}"));
        }
    }
}
