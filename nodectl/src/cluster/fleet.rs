//! The fleet: for every node what `prepare` would do for it, and what is in its way. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::change::Change;
use super::check::Check;
use super::control_plane;
use super::decision::Survey;
use super::ipam;
use super::node::NodeView;
use super::object::{Kind, text};
use super::report::{or_dash, table};

/// One node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FleetNode {
    /// Its name.
    pub node: String,
    /// `control-plane` or `worker`: those of the control plane are switched last.
    pub role: String,
    /// The CNI that its label asks for; flannel where it has none yet.
    pub on: String,
    /// Its pod CIDR; both where flannel carries both families.
    pub pod_cidr: String,
    /// Writes that prepare has to do for it, by kind of object.
    pub needs: BTreeMap<String, usize>,
    /// Names of the checks that refuse because of it.
    pub blocked_by: Vec<String>,
}

/// Every node, those of the control plane last: the order in which they are to be switched.
pub fn nodes(survey: &Survey, checks: &[Check], changes: &[Change]) -> Vec<FleetNode> {
    let mut needs: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    let ids = |n: &NodeView| {
        let overlays = survey.pod_cidrs(n).into_iter().map(|cidr| ipam::vtep_handle(n.name, cidr));
        let ids = overlays.chain([ipam::bridge_handle(n.name)]);
        ids.map(|id| (id, n.name.to_owned())).collect::<Vec<_>>()
    };
    let handles: BTreeMap<String, String> = survey.nodes.iter().flat_map(ids).collect();
    for change in changes {
        if let Some(node) = node_of(change, &handles) {
            *needs.entry(node).or_default().entry(change.target.kind.name().to_owned()).or_default() += 1;
        }
    }
    let row = |node: &NodeView| FleetNode {
        node: node.name.to_owned(),
        role: if control_plane::is_of(node) { "control-plane" } else { "worker" }.to_owned(),
        on: node.wanted.unwrap_or("flannel").to_owned(),
        pod_cidr: survey.pod_cidrs(node).iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        needs: needs.remove(node.name).unwrap_or_default(),
        blocked_by: blocked_by(checks, node.name),
    };
    let mut rows: Vec<FleetNode> = survey.nodes.iter().map(row).collect();
    rows.sort_by_key(|row| row.role != "worker");
    rows
}

fn blocked_by(checks: &[Check], node: &str) -> Vec<String> {
    let refused = checks.iter().filter(|c| c.is_refused() && c.nodes.iter().any(|n| n == node));
    refused.map(|c| c.name.to_owned()).collect()
}

/// The node that a write is done for; `handles` says whose a handle is.
fn node_of(change: &Change, handles: &BTreeMap<String, String>) -> Option<String> {
    let after = change.after.as_ref()?;
    match change.target.kind {
        Kind::Node => Some(change.target.name.clone()),
        Kind::IPAMBlock => ipam::block_node(after).map(str::to_owned),
        Kind::BlockAffinity => text(after, "/spec/node").map(str::to_owned),
        Kind::IPAMHandle => handles.get(text(after, "/spec/handleID")?).cloned(),
        _ => None,
    }
}

/// The table.
pub fn text_of(rows: &[FleetNode]) -> String {
    let mut lines = vec![["NODE", "ROLE", "ON", "POD CIDR", "TO WRITE", "BLOCKED BY"].map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        [
            row.node.clone(),
            row.role.clone(),
            row.on.clone(),
            or_dash(&row.pod_cidr),
            or_dash(&needs_text(&row.needs)),
            or_dash(&row.blocked_by.join(", ")),
        ]
    }));
    table(&lines)
}

/// `4 IPAMBlock, 2 Node`.
fn needs_text(needs: &BTreeMap<String, usize>) -> String {
    needs.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ")
}

/// The rows in a document that `prepare --dry-run --output json` printed.
pub fn from_document(document: &Value) -> Option<Vec<FleetNode>> {
    serde_json::from_value(document.get("fleet")?.clone()).ok()
}
