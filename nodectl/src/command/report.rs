//! `nodectl report`: what the cluster's side and the nodes themselves found, put together from files.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::settings::Settings;
use crate::cli::ReportArgs;
use crate::cluster::fleet::{self, FleetNode};
use crate::cluster::report::{or_dash, table};
use crate::failure::{Failure, code};
use crate::report;

pub(super) fn run(args: &ReportArgs, settings: &Settings) -> Result<u8> {
    let mut fleet: Option<(Vec<FleetNode>, Vec<String>)> = None;
    let mut nodes = BTreeMap::new();
    for path in &args.files {
        match read(path)? {
            Document::Fleet(rows, refused) => fleet = Some((rows, refused)),
            Document::Preflight(node, found) => drop(nodes.insert(node, found)),
        }
    }
    let (rows, refused) = fleet.unwrap_or_default();
    let report = merge(rows, &refused, nodes);
    let all_ready = refused.is_empty() && !report.is_empty() && report.iter().all(|row| row.is_ready);
    let data = json!({"ready": all_ready, "cluster_blocked_by": refused, "nodes": report.iter().map(Row::data).collect::<Vec<_>>()});
    report::result(settings.output, &text(&report, &refused, all_ready), &data, false)?;
    Ok(if all_ready { code::DONE } else { code::REFUSED })
}

/// One file.
enum Document {
    /// The rows, and the checks that refuse for the cluster as a whole.
    Fleet(Vec<FleetNode>, Vec<String>),
    /// A node's name, and the names of the checks that failed there.
    Preflight(String, Vec<String>),
}

fn read(path: &Path) -> Result<Document> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("could not read {shown}"))?;
    let document: Value = serde_json::from_str(&text).with_context(|| format!("{shown} is not JSON"))?;
    let checks = document.get("checks").and_then(Value::as_array).cloned().unwrap_or_default();
    let word = |check: &Value, field: &str| check.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(rows) = fleet::from_document(&document) {
        let whole = |c: &&Value| word(c, "outcome") == "refused" && c.get("nodes").is_none();
        return Ok(Document::Fleet(rows, checks.iter().filter(whole).map(|c| word(c, "name")).collect()));
    }
    let failed = checks.iter().filter(|c| word(c, "verdict") == "fail").map(|c| word(c, "name")).collect();
    let is_preflight = document.get("ready").is_some() && document.get("checks").is_some();
    match document.get("node").map(Value::as_str) {
        Some(Some(node)) => Ok(Document::Preflight(node.to_owned(), failed)),
        // Without the API server a node does not know its own name; its file's name may.
        _ if is_preflight => {
            let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
            Ok(Document::Preflight(stem, failed))
        }
        _ => Err(Failure::Usage(format!(
            "{shown} is neither of the two that this command puts together. To fix it: give what `nodectl cluster prepare --dry-run --output json` and `nodectl preflight --output json` print"
        ))
        .into()),
    }
}

/// One node of the report.
struct Row {
    fleet: FleetNode,
    /// Names of the checks that failed on the node; `None` where it was not asked.
    failed: Option<Vec<String>>,
    is_ready: bool,
}

impl Row {
    fn data(&self) -> Value {
        let preflight = match &self.failed {
            None => Value::Null,
            Some(failed) => json!({"ready": failed.is_empty(), "failed": failed}),
        };
        json!({"node": self.fleet.node, "ready": self.is_ready, "cluster": self.fleet, "preflight": preflight})
    }
}

/// A node that is on Calico has nothing before it. `prepared` fails before prepare has run, which the table says itself.
fn merge(rows: Vec<FleetNode>, refused: &[String], mut nodes: BTreeMap<String, Vec<String>>) -> Vec<Row> {
    let mut report: Vec<Row> = Vec::new();
    for fleet in rows {
        let failed = nodes.remove(&fleet.node);
        let passes = failed.as_ref().is_some_and(Vec::is_empty);
        let is_ready = fleet.on == "calico" || (refused.is_empty() && fleet.blocked_by.is_empty() && passes);
        report.push(Row { fleet, failed, is_ready });
    }
    for (node, failed) in nodes {
        let is_ready = failed.is_empty();
        report.push(Row { fleet: FleetNode { node, ..FleetNode::default() }, failed: Some(failed), is_ready });
    }
    report
}

fn text(report: &[Row], refused: &[String], all_ready: bool) -> String {
    let mut lines = vec![["NODE", "ROLE", "ON", "CLUSTER", "PREFLIGHT", "READY"].map(str::to_owned)];
    lines.extend(report.iter().map(|row| {
        let preflight = match &row.failed {
            None => "not asked".to_owned(),
            Some(failed) if failed.is_empty() => "ok".to_owned(),
            Some(failed) => failed.join(", "),
        };
        let fleet = &row.fleet;
        let cluster = match (fleet.role.as_str(), fleet.blocked_by.as_slice()) {
            ("", _) => "not asked".to_owned(),
            (_, []) => "ok".to_owned(),
            (_, names) => names.join(", "),
        };
        let ready = if row.is_ready { "yes" } else { "no" }.to_owned();
        [fleet.node.clone(), or_dash(&fleet.role), or_dash(&fleet.on), cluster, preflight, ready]
    }));
    let mut text = table(&lines);
    if !refused.is_empty() {
        text.push_str(&format!("\nthe cluster as a whole is refused by {}\n", refused.join(", ")));
    }
    let ready = report.iter().filter(|row| row.is_ready).count();
    text.push_str(&match all_ready {
        true => format!("\nall {ready} nodes may be switched\n"),
        false => format!("\n{ready} of {} nodes may be switched\n", report.len()),
    });
    text
}
