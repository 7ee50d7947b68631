//! Where the node stands, in a few lines.

use super::bold;
use crate::cni::{Cni, NODE_LABEL};
use crate::facts::Facts;
use crate::plan::current_cni;

/// The node's CNI, its agents, its overlay, its shim, and what is open.
pub fn status_text(facts: &Facts) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| text.push_str(&format!("{:<12} {value}\n", format!("{name}:")));
    let node = facts.cluster.as_ref().map_or(facts.machine.hostname.clone(), |c| c.node.clone());
    let cni = current_cni(facts).map_or("unknown".to_owned(), |c| c.to_string());
    row("node", bold(&node));
    row("CNI", bold(&cni));
    let agents: Vec<&str> =
        [Cni::Flannel, Cni::Calico].iter().map(|c| c.process()).filter(|name| facts.runs(name)).collect();
    row("agents", if agents.is_empty() { "none runs".into() } else { agents.join(", ") });
    let overlays = facts.network.links.iter().filter_map(|l| l.vxlan.as_ref().map(|v| (l, v)));
    for (link, vxlan) in overlays {
        row(
            "overlay",
            format!("{} (VNI {}, port {}, MTU {}, {})", link.name, vxlan.vni, vxlan.port, link.mtu, link.mac),
        );
    }
    match &facts.shim.mode {
        None => row("shim", "not installed".into()),
        Some(mode) => {
            let records: Vec<String> =
                facts.shim.attachments.iter().map(|(cni, ids)| format!("{} by {cni}", ids.len())).collect();
            let pending = facts.shim.pending.len();
            let kept = if pending > 0 { format!(", {pending} DELs pending") } else { String::new() };
            row(
                "shim",
                format!(
                    "{mode}; attachments: {}{kept}",
                    if records.is_empty() { "none".into() } else { records.join(", ") }
                ),
            );
        }
    }
    match &facts.cluster {
        Some(view) => {
            let label = view.labels.get(NODE_LABEL).map_or("absent", String::as_str);
            row("label", format!("{NODE_LABEL}={label}"));
            let cordon = if view.unschedulable { "cordoned" } else { "schedulable" };
            row("scheduling", cordon.into());
        }
        None => row("API server", facts.unobserved.get("cluster").cloned().unwrap_or_else(|| "does not answer".into())),
    }
    match &facts.runs.open {
        Some(run) => row("open run", format!("{run}: `nodectl resume` finishes it, `nodectl revert` takes it back")),
        None => row("runs", format!("{} closed, none open", facts.runs.closed.len())),
    }
    text
}
