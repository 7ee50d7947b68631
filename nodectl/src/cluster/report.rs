//! What `nodectl cluster` prints: checks, writes as a diff, and the table of nodes. Pure.

use std::fmt::Write;

use serde_json::{Value, json};

use super::change::{Action, Change, FieldChange, field_changes};
use super::check::{Check, Outcome, listed};
use super::drive::Run;
use super::fleet;
use super::ipam;
use super::object::Kind;
use super::status::{NodeStatus, Status};
use crate::run_note::RunNote;

/// A longer text is cut.
const LONGEST_TEXT: usize = 200;
/// A longer list is counted instead of printed.
const LONGEST_LIST: usize = 8;

/// What a command that writes came to.
pub fn run_text(run: &Run) -> String {
    let mut text = String::new();
    checks(&mut text, run);
    if !run.changes.is_empty() {
        let verb = if run.dry_run { "to write" } else { "written" };
        let _ = writeln!(text, "{verb} ({}):", run.changes.len());
        let mut held = None;
        for change in &run.changes {
            if change.waits_for != held {
                held.clone_from(&change.waits_for);
                if let Some(waits_for) = &held {
                    let _ = writeln!(text, "\nthen, after waiting for {waits_for}:");
                }
            }
            text.push_str(&change_text(change));
        }
        text.push('\n');
    }
    if !run.fleet.is_empty() {
        text.push_str(&fleet::text_of(&run.fleet));
        text.push('\n');
    }
    for note in &run.notes {
        let _ = writeln!(text, "note: {note}");
    }
    if let Some(backup) = run.backups.first() {
        let _ = writeln!(text, "backup: {}", backup.display());
    }
    text.push_str(&conclusion(run));
    text
}

/// The same as data.
pub fn run_json(run: &Run) -> Value {
    let changes: Vec<Value> = run
        .changes
        .iter()
        .map(|c| {
            json!({
                "object": c.target,
                "action": c.action,
                "reason": c.reason,
                "waits_for": c.waits_for,
                "fields": c.fields(),
            })
        })
        .collect();
    json!({
        "command": run.command,
        "dry_run": run.dry_run,
        "refused": run.refused,
        "checks": run.checks,
        "changes": changes,
        "pending": run.pending,
        "notes": run.notes,
        "fleet": run.fleet,
        "backups": run.backups,
    })
}

/// The checks: all of them where one refuses or nothing was written yet, else only those that somebody should read.
fn checks(text: &mut String, run: &Run) {
    let all = run.refused || run.dry_run;
    let shown: Vec<&Check> = run.checks.iter().filter(|c| all || c.outcome != Outcome::Passed).collect();
    for check in &shown {
        let mark = match check.outcome {
            Outcome::Passed => "ok",
            Outcome::Warning => "warning",
            Outcome::Refused => "refused",
        };
        let _ = writeln!(text, "{mark:<8} {:<22} {}", check.name, check.finding);
        if let Some(fix) = &check.fix {
            let _ = writeln!(text, "{:31} To fix it: {fix}", "");
        }
    }
    if !shown.is_empty() {
        text.push('\n');
    }
}

/// One write: `+` an object that comes, `~` one that changes, `-` one that goes; below it the fields, old and new.
pub fn change_text(change: &Change) -> String {
    let mark = match change.action {
        Action::Create => '+',
        Action::Update => '~',
        Action::Delete => '-',
    };
    let mut text = format!("\n{mark} {}\n  # {}\n", change.target, change.reason);
    if change.action != Action::Delete {
        let readable = |object: &Option<Value>| object.as_ref().map(|o| readable(change.target.kind, o));
        for field in field_changes(readable(&change.before).as_ref(), &readable(&change.after).unwrap_or_default()) {
            field_text(&mut text, &field);
        }
    }
    text
}

fn field_text(text: &mut String, field: &FieldChange) {
    if let Some((before, after)) = documents(field) {
        for inner in field_changes(Some(&before), &after) {
            field_text(text, &FieldChange { field: format!("{}: {}", field.field, inner.field), ..inner });
        }
        return;
    }
    for (mark, value) in [('-', &field.before), ('+', &field.after)] {
        if !value.is_null() {
            let _ = writeln!(text, "  {mark} {}: {}", field.field, short(value));
        }
    }
}

/// A text that is a JSON document of its own, as annotations are, is shown by its fields.
fn documents(field: &FieldChange) -> Option<(Value, Value)> {
    let parse = |value: &Value| serde_json::from_str(value.as_str()?).ok().filter(Value::is_object);
    let after = parse(&field.after)?;
    Some((parse(&field.before).unwrap_or_else(|| json!({})), after))
}

/// Calico's IPAM objects as somebody thinks of them: whose block it is, and who holds which address of it.
fn readable(kind: Kind, object: &Value) -> Value {
    let spec = |field: &str| object.pointer("/spec").and_then(|s| s.get(field)).cloned().unwrap_or_default();
    let deleted = if ipam::is_deleted(object) { json!(true) } else { Value::Null };
    match kind {
        Kind::IPAMBlock => {
            let held: serde_json::Map<String, Value> =
                ipam::held(object).into_iter().map(|(address, handle)| (address.to_string(), json!(handle))).collect();
            json!({"affinity": spec("affinity"), "held": held, "deleted": deleted})
        }
        Kind::BlockAffinity => json!({"node": spec("node"), "state": spec("state"), "deleted": deleted}),
        Kind::IPAMHandle => json!({"held": spec("block"), "deleted": deleted}),
        _ => object.clone(),
    }
}

fn short(value: &Value) -> String {
    match value {
        Value::Array(list) if list.len() > LONGEST_LIST => format!("[{} entries]", list.len()),
        Value::String(text) if text.len() > LONGEST_TEXT => {
            let beginning: String = text.chars().take(LONGEST_TEXT / 4).collect();
            format!("{} ({} bytes)", json!(beginning + "..."), text.len())
        }
        other => other.to_string(),
    }
}

fn conclusion(run: &Run) -> String {
    let mut text = String::new();
    for pending in &run.pending {
        let _ = writeln!(text, "waiting for: {pending}");
    }
    let command = run.command;
    let refused: Vec<&str> = run.checks.iter().filter(|c| c.is_refused()).map(|c| c.name).collect();
    let last = if run.refused && run.changes.is_empty() {
        format!("{command}: refused by {}; nothing was written", refused.join(", "))
    } else if run.refused {
        format!(
            "{command}: the cluster changed meanwhile, and now {} refuses; what is listed above was written",
            refused.join(", ")
        )
    } else if run.dry_run && run.changes.is_empty() && run.pending.is_empty() {
        format!("{command}: nothing to do")
    } else if run.dry_run {
        format!("{command}: dry run, nothing was written")
    } else if !run.pending.is_empty() {
        format!("{command}: not done yet. To fix it: see above, then run `nodectl cluster {command}` again")
    } else if run.changes.is_empty() {
        format!("{command}: nothing to do")
    } else {
        format!("{command}: done, and read back")
    };
    text.push_str(&last);
    text.push('\n');
    text
}

/// The table of nodes.
pub fn status_text(status: &Status) -> String {
    let mut rows = vec![["NODE", "WANTED", "RUNNING", "NETWORK", "PREPARED", "PACE", "LAST RUN"].map(str::to_owned)];
    rows.extend(status.nodes.iter().map(row));
    let mut text = table(&rows);
    let verdict = match (status.on, status.complete) {
        (Some(cni), true) => format!("all nodes are on {cni}"),
        (Some(cni), false) if !status.unclosed.is_empty() => {
            format!("all nodes are on {cni}, and a switch is not over on {}", listed(&status.unclosed))
        }
        (Some(cni), false) => format!("all nodes are on {cni}, which is not what was asked for"),
        (None, _) if status.nodes.is_empty() => "there are no nodes".to_owned(),
        (None, _) => "the roll is not complete".to_owned(),
    };
    let _ = writeln!(text, "\n{verdict}");
    text
}

/// Rows below each other, as wide as their widest.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

/// A dash for nothing.
pub(crate) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn row(node: &NodeStatus) -> [String; 7] {
    let running: Vec<String> =
        node.running
            .iter()
            .map(|r| {
                if r.state == "ready" { r.agent.name().to_owned() } else { format!("{} ({})", r.agent.name(), r.state) }
            })
            .collect();
    [
        node.node.clone(),
        or_dash(&node.wanted),
        or_dash(&running.join(", ")),
        or_dash(&node.network),
        node.prepared.clone(),
        or_dash(&node.pace),
        node.run.as_ref().map_or_else(|| or_dash(&node.run_problem), RunNote::words),
    ]
}
