//! NetworkPolicies: flannel ignores them, Calico enforces them. A policy that nobody ever saw at work begins to work on
//! each node that is switched, so they are named, with the pods that they select.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cluster::check::{Check, listed};
use crate::cluster::facts::{ClusterFacts, PolicedPod};
use crate::cluster::object::{items, name, namespace, text, text_map, texts};

/// Names the policies that begin to be enforced.
pub fn check(facts: &ClusterFacts) -> Check {
    const NAME: &str = "network-policies";
    let mut found: Vec<String> = facts.network_policies.iter().map(|p| described(p, &facts.policed_pods)).collect();
    found.extend(facts.calico_policies.iter().cloned());
    if found.is_empty() {
        return Check::passed(NAME, "there are no NetworkPolicies that Calico would begin to enforce");
    }
    Check::warning(
        NAME,
        format!(
            "flannel ignores network policies, Calico enforces them on every node from its switch on: {}",
            listed(&found)
        ),
        "make sure that each of them is meant (kubectl get networkpolicies -A), and delete those that are not",
    )
}

fn described(policy: &Value, pods: &[PolicedPod]) -> String {
    let selector = policy.pointer("/spec/podSelector").unwrap_or(&Value::Null);
    let of_namespace = pods.iter().filter(|p| p.namespace == namespace(policy));
    let count = of_namespace.filter(|p| selects(selector, &p.labels)).count();
    let pods = if count == 1 { "1 pod".to_owned() } else { format!("{count} pods") };
    format!("{}/{} ({pods})", namespace(policy), name(policy))
}

/// Whether a label selector selects these labels; an empty one selects everything.
pub fn selects(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    let equal = text_map(selector, "/matchLabels").iter().all(|(key, value)| labels.get(key) == Some(value));
    equal && items(selector, "/matchExpressions").iter().all(|expression| holds(expression, labels))
}

fn holds(expression: &Value, labels: &BTreeMap<String, String>) -> bool {
    let found = labels.get(text(expression, "/key").unwrap_or_default());
    let one_of = || found.is_some_and(|value| texts(expression, "/values").contains(value));
    match text(expression, "/operator") {
        Some("In") => one_of(),
        Some("NotIn") => !one_of(),
        Some("Exists") => found.is_some(),
        Some("DoesNotExist") => found.is_none(),
        _ => false,
    }
}
