//! The status of PodDisruptionBudgets.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::access::Access;
use super::pods::{is_active, is_ready, scaled};
use crate::apiserver::budget_selects;
use crate::apiserver::value::{controller_of, parse_time, text, unix_now};
use crate::client::ClientResult;

const BUDGETS: &str = "poddisruptionbudgets.policy";

/// Counts anew for every budget.
pub fn run(access: &Access) -> ClientResult<()> {
    let budgets = access.list(BUDGETS)?;
    if budgets.is_empty() {
        return Ok(());
    }
    let pods = access.list("pods")?;
    let sets = access.list("replicasets.apps")?;
    for budget in budgets {
        let status = status(&budget, &pods, &sets);
        if budget["status"] != status {
            // Merging would keep the names of Pods that are gone.
            let mut patch = json!({"status": status});
            for name in budget["status"]["disruptedPods"].as_object().into_iter().flat_map(|pods| pods.keys()) {
                if patch["status"]["disruptedPods"][name].is_null() {
                    patch["status"]["disruptedPods"][name] = Value::Null;
                }
            }
            patch["metadata"]["resourceVersion"] = budget["metadata"]["resourceVersion"].clone();
            access.patch(BUDGETS, &budget, "status", &patch);
        }
    }
    Ok(())
}

fn status(budget: &Value, pods: &[Arc<Value>], sets: &[Arc<Value>]) -> Value {
    let namespace = &budget["metadata"]["namespace"];
    let covered: Vec<&Arc<Value>> = pods
        .iter()
        .filter(|pod| pod["metadata"]["namespace"] == *namespace && is_active(pod) && budget_selects(budget, pod))
        .collect();
    let disrupted = still_disrupted(budget, &covered);
    let healthy = covered.iter().filter(|pod| is_ready(pod) && !disrupted.contains_key(text(&pod["metadata"]["name"])));
    let healthy = i64::try_from(healthy.count()).unwrap_or(0);
    let (desired, expected) = desired(budget, &covered, sets);
    json!({"observedGeneration": budget["metadata"]["generation"], "disruptedPods": disrupted,
        "disruptionsAllowed": if expected > 0 { (healthy - desired).max(0) } else { 0 },
        "currentHealthy": healthy, "desiredHealthy": desired, "expectedPods": expected})
}

/// Evicted, but not yet seen to go: two minutes at most.
fn still_disrupted(budget: &Value, covered: &[&Arc<Value>]) -> Map<String, Value> {
    let entries = budget["status"]["disruptedPods"].as_object().into_iter().flatten();
    entries
        .filter(|(name, since)| {
            let fresh = parse_time(since).is_some_and(|since| unix_now() * 1000 - since < 120_000);
            fresh && covered.iter().any(|pod| pod["metadata"]["name"] == name.as_str())
        })
        .map(|(name, since)| (name.clone(), since.clone()))
        .collect()
}

/// How many must stay healthy, and of how many.
fn desired(budget: &Value, covered: &[&Arc<Value>], sets: &[Arc<Value>]) -> (i64, i64) {
    let spec = &budget["spec"];
    let present = i64::try_from(covered.len()).unwrap_or(0);
    if spec["minAvailable"].is_i64() || spec["minAvailable"].is_u64() {
        return (scaled(&spec["minAvailable"], present, true), present);
    }
    let mut owners: Vec<&Value> =
        covered.iter().filter_map(|pod| controller_of(pod)).map(|owner| &owner["uid"]).collect();
    owners.sort_by_key(|uid| text(uid));
    owners.dedup();
    let replicas = owners.iter().map(|uid| {
        let set = sets.iter().find(|set| set["metadata"]["uid"] == **uid);
        set.and_then(|set| set["spec"]["replicas"].as_i64()).unwrap_or(0)
    });
    let expected = replicas.sum();
    if spec["maxUnavailable"].is_null() {
        return (scaled(&spec["minAvailable"], expected, true), expected);
    }
    ((expected - scaled(&spec["maxUnavailable"], expected, true)).max(0), expected)
}
