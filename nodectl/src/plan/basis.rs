//! What a plan rests on, and how a node has drifted from it since.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Plan;
use crate::facts::Facts;

/// The facts that a plan rests on, by name.
pub type Basis = BTreeMap<String, Value>;

/// Collects them. What changes by itself (counters, pods' addresses, free space) is left out.
pub fn basis(facts: &Facts) -> Basis {
    let mut basis = Basis::new();
    let mut put = |name: &str, value: Value| {
        basis.insert(name.to_owned(), value);
    };
    put("kernel", json!(facts.machine.kernel));
    put("conflists", json!(facts.files.conf_names));
    put("content of the conflists", json!(facts.files.confs));
    put("CNI directories", json!([facts.files.conf_dir, facts.files.bin_dir]));
    put("shim mode", json!(facts.shim.mode));
    let overlays: Vec<_> = facts.network.links.iter().filter(|l| l.vxlan.is_some()).collect();
    put("overlay devices", json!(overlays));
    put("firewall backend", json!(facts.firewall.active));
    let mut agents: Vec<&str> = facts.processes.iter().map(|p| p.name.as_str()).collect();
    agents.retain(|name| ["flanneld", "calico-node"].contains(name));
    agents.sort_unstable();
    agents.dedup();
    put("agents", json!(agents));
    if let Some(cluster) = &facts.cluster {
        put("node", json!([cluster.node, cluster.uid]));
        put("pod CIDRs", json!(cluster.pod_cidrs));
        put("unschedulable", json!(cluster.unschedulable));
        put("label nodectl.io/cni", json!(cluster.labels.get(crate::cni::NODE_LABEL)));
        put("preparation", json!(cluster.prepared.as_ref().map(|p| p.as_ref().ok())));
        let mut pods: Vec<String> = cluster
            .pods
            .iter()
            .filter(|p| !p.host_network)
            .map(|p| format!("{}/{} {}", p.namespace, p.name, p.uid))
            .collect();
        pods.sort_unstable();
        put("pods", json!(pods));
    }
    basis
}

/// What has changed since a plan was made, a sentence each; empty where nothing has. The facts that it rests on come first.
/// Where those are the same, a plan made now is still compared whole: it may rest on more than them, another version of
/// nodectl may have made it, or somebody's editor.
pub fn drift(then: &Plan, now: &Plan) -> Vec<String> {
    let drifts = facts_drift(&then.basis, &now.basis);
    if drifts.is_empty() { plan_drift(then, now) } else { drifts }
}

/// How the facts have changed.
pub fn facts_drift(then: &Basis, now: &Basis) -> Vec<String> {
    let mut drifts = Vec::new();
    for name in then.keys().chain(now.keys().filter(|k| !then.contains_key(*k))) {
        let (a, b) = (then.get(name).unwrap_or(&Value::Null), now.get(name).unwrap_or(&Value::Null));
        if a != b {
            drifts.push(describe(name, a, b));
        }
    }
    drifts
}

/// The first step that is another one, and every other part that differs.
fn plan_drift(then: &Plan, now: &Plan) -> Vec<String> {
    let mut drifts = Vec::new();
    let places = 0..then.steps.len().max(now.steps.len());
    if let Some(at) = places.into_iter().find(|&at| then.steps.get(at) != now.steps.get(at)) {
        let title =
            |plan: &Plan| plan.steps.get(at).map_or_else(|| "absent".to_owned(), |step| format!("{:?}", step.title()));
        let (was, is) = (title(then), title(now));
        drifts.push(match was == is {
            true => format!("step {}, {was}: its details", at + 1),
            false => format!("step {}: was {was}, would be {is}", at + 1),
        });
    }
    let parts = |plan: &Plan| match serde_json::to_value(plan) {
        Ok(Value::Object(mut parts)) => {
            parts.retain(|name, _| !["steps", "basis"].contains(&name.as_str()));
            parts.into_iter().collect()
        }
        _ => Basis::new(),
    };
    drifts.extend(facts_drift(&parts(then), &parts(now)));
    drifts
}

/// Lists are compared by member, so that the one pod that came is named and not all thirty.
fn describe(name: &str, then: &Value, now: &Value) -> String {
    if let (Value::Array(then), Value::Array(now)) = (then, now) {
        let gone = then.iter().filter(|v| !now.contains(v)).map(|v| format!("- {}", plain(v)));
        let come = now.iter().filter(|v| !then.contains(v)).map(|v| format!("+ {}", plain(v)));
        let members: Vec<String> = gone.chain(come).collect();
        if !members.is_empty() {
            return format!("{name}: {}", members.join(", "));
        }
    }
    format!("{name}: was {}, is {}", plain(then), plain(now))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Null => "absent".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_names_the_member_that_changed() {
        let then = Basis::from([("pods".to_owned(), json!(["a/b 1", "a/c 2"])), ("kernel".to_owned(), json!("6.1"))]);
        let now = Basis::from([("pods".to_owned(), json!(["a/b 1", "a/d 3"])), ("kernel".to_owned(), json!("6.2"))]);
        assert_eq!(facts_drift(&then, &now), vec!["kernel: was 6.1, is 6.2", "pods: - a/c 2, + a/d 3"]);
        assert!(facts_drift(&then, &then).is_empty());
    }
}
