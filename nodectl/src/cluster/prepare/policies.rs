//! NetworkPolicies: flannel ignores them, Calico enforces them. A policy that nobody ever saw at work begins to work on
//! each node that is switched, so they are named, with the pods that they select.

use std::collections::BTreeMap;

use serde_json::Value;

use super::selector;
use crate::cluster::check::{Check, listed};
use crate::cluster::facts::{CalicoPolicy, ClusterFacts, PolicedPod};
use crate::cluster::object::{items, name, namespace, text, text_map, texts};

/// Whether policies begin to be enforced ([`beginning`]), and whether that is accepted.
pub fn check(found: &[String], accepted: bool) -> Check {
    const NAME: &str = "network-policies";
    if found.is_empty() {
        return Check::passed(NAME, "there are no NetworkPolicies that Calico would begin to enforce");
    }
    let finding = format!(
        "flannel ignores network policies, Calico enforces them on every node from its switch on: {}",
        listed(found)
    );
    if accepted {
        return Check::warning(NAME, finding, "nothing, if each of them is meant: --accept-policy-change was given");
    }
    Check::refused(
        NAME,
        finding,
        "make sure that each of them is meant (kubectl get networkpolicies -A), delete those that are not, then accept the others with --accept-policy-change",
    )
}

/// Every one of them, as notes: a check names only the first few.
pub fn notes(found: &[String]) -> Vec<String> {
    found.iter().map(|policy| format!("begins to be enforced: {policy}")).collect()
}

/// The policies that begin to be enforced, with the number of pods that each selects.
pub fn beginning(facts: &ClusterFacts) -> Vec<String> {
    let mut found: Vec<String> = facts.network_policies.iter().map(|p| described(p, &facts.policed_pods)).collect();
    found.extend(facts.calico_policies.iter().map(|p| described_calico(p, &facts.policed_pods)));
    found
}

fn described_calico(policy: &CalicoPolicy, pods: &[PolicedPod]) -> String {
    let within = pods.iter().filter(|p| policy.namespace.is_empty() || p.namespace == policy.namespace);
    let count = within.map(|pod| {
        // Calico gives every pod these beside its own.
        let mut labels = pod.labels.clone();
        labels.insert("projectcalico.org/namespace".to_owned(), pod.namespace.clone());
        labels.insert("projectcalico.org/orchestrator".to_owned(), "k8s".to_owned());
        selector::selects(&policy.selector, &labels).map(usize::from)
    });
    let pods = match count.sum::<Option<usize>>() {
        Some(count) if policy.by_namespace => format!("at most {}", counted(count)),
        Some(count) => counted(count),
        None => format!("the pods that {} selects", policy.selector),
    };
    let place = if policy.namespace.is_empty() { String::new() } else { format!("{}/", policy.namespace) };
    format!("{} {place}{} ({pods})", policy.kind, policy.name)
}

fn counted(pods: usize) -> String {
    if pods == 1 { "1 pod".to_owned() } else { format!("{pods} pods") }
}

fn described(policy: &Value, pods: &[PolicedPod]) -> String {
    let selector = policy.pointer("/spec/podSelector").unwrap_or(&Value::Null);
    let of_namespace = pods.iter().filter(|p| p.namespace == namespace(policy));
    let count = of_namespace.filter(|p| selects(selector, &p.labels)).count();
    format!("{}/{} ({})", namespace(policy), name(policy), counted(count))
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
