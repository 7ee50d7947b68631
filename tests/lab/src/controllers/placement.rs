//! Whether a Pod may be on a node: selectors, affinity, taints, host ports.

use serde_json::Value;

use crate::apiserver::selector::{Fields, Labels};
use crate::apiserver::value::{items, text};

/// Whether nodeName, nodeSelector and required node affinity admit the node.
pub fn selects(spec: &Value, node: &Value) -> bool {
    let name = text(&spec["nodeName"]);
    let terms =
        &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    (name.is_empty() || node["metadata"]["name"] == name)
        && Labels::from_map(&spec["nodeSelector"]).matches(node)
        && (terms.is_null() || items(terms).any(|term| term_matches(term, node)))
}

fn term_matches(term: &Value, node: &Value) -> bool {
    let labels = Labels::from_expressions(&term["matchExpressions"]).is_some_and(|labels| labels.matches(node));
    let fields = items(&term["matchFields"]).all(|field| {
        items(&field["values"]).any(|value| {
            Fields::parse(&format!("{}={}", text(&field["key"]), text(value))).is_ok_and(|fields| fields.matches(node))
        })
    });
    labels && fields
}

/// Whether all taints of the node with one of these effects are tolerated.
pub fn tolerates(tolerations: &Value, node: &Value, effects: &[&str]) -> bool {
    items(&node["spec"]["taints"])
        .filter(|taint| effects.contains(&text(&taint["effect"])))
        .all(|taint| items(tolerations).any(|toleration| covers(toleration, taint)))
}

/// Whether one toleration covers one taint.
pub fn covers(toleration: &Value, taint: &Value) -> bool {
    let effect = text(&toleration["effect"]);
    let key = text(&toleration["key"]);
    let exists = toleration["operator"] == "Exists";
    let key_fits = (key.is_empty() && exists) || taint["key"] == key;
    let value_fits = exists || text(&toleration["value"]) == text(&taint["value"]);
    (effect.is_empty() || taint["effect"] == effect) && key_fits && value_fits
}

/// The host ports that a Pod takes.
pub fn host_ports(spec: &Value) -> Vec<(u64, String)> {
    let containers = items(&spec["containers"]).flat_map(|container| items(&container["ports"]));
    containers.filter_map(|port| Some((port["hostPort"].as_u64()?, text(&port["protocol"]).to_string()))).collect()
}
