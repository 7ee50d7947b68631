//! pods/eviction: a deletion that asks the disruption budgets first.

use std::sync::Arc;

use serde_json::{Value, json};

use super::api::{Api, Target};
use super::delete::DeleteOptions;
use super::error::{ApiError, ApiResult};
use super::identity::User;
use super::modify::uid_mismatch;
use super::node_restriction::Attempt;
use super::options::Regime;
use super::selector::Labels;
use super::store::{Inner, Key};
use super::value::{is_true, items, now, text};

const BUDGETS: &str = "poddisruptionbudgets.policy";
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

impl Api {
    /// Evicts a Pod.
    pub fn evict(&self, user: &User, target: &Target, eviction: &Value, dry_run: bool) -> ApiResult<Value> {
        self.check_body(target, eviction)?;
        let mut options = DeleteOptions::from_object(&eviction["deleteOptions"]);
        options.dry_run |= dry_run;
        self.store.transaction(|store| {
            self.admit(
                store,
                user,
                &Attempt {
                    resource: "pods",
                    subresource: "eviction",
                    verb: "create",
                    namespace: &target.namespace,
                    name: &target.name,
                    old: None,
                    new: Some(eviction),
                },
            )?;
            let pod = store.get(&target.key()).ok_or_else(|| target.not_found())?;
            // First the budget, then the preconditions: an eviction that they refuse has used the budget up all the same.
            if !ignores_budgets(&pod)
                && let Some((key, charged)) = self.ask_budget(store, &pod)?
                && !options.dry_run
            {
                store.put(key, charged);
            }
            let actual = text(&pod["metadata"]["uid"]);
            if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != actual) {
                return Err(self.other_pod(target, wanted, actual));
            }
            let pod = self.mark(store, target, &pod, &options);
            self.delete_checked(store, target, &pod, &options)?;
            Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}))
        })
    }

    fn check_body(&self, target: &Target, eviction: &Value) -> ApiResult<()> {
        let version = text(&eviction["apiVersion"]);
        let known = match self.regime {
            Regime::V1_20 => ["policy/v1beta1"].contains(&version),
            Regime::V1_36 => ["policy/v1", "policy/v1beta1"].contains(&version),
        };
        if !known || eviction["kind"] != "Eviction" {
            return Err(ApiError::bad_request(format!(
                "no kind \"{}\" is registered for version \"{version}\" in scheme \"k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:29\"",
                text(&eviction["kind"])
            )));
        }
        if text(&eviction["metadata"]["name"]) != target.name {
            return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
        }
        Ok(())
    }

    /// Asks the Pod's budget; the budget with this disruption counted, if there is one and it counts.
    fn ask_budget(&self, store: &Inner, pod: &Value) -> ApiResult<Option<(Key, Value)>> {
        let namespace = text(&pod["metadata"]["namespace"]);
        let budgets: Vec<(Key, Value)> = store
            .list(BUDGETS, Some(namespace))
            .filter(|(_, budget)| selects(budget, pod))
            .map(|(key, budget)| (key.clone(), budget.as_ref().clone()))
            .collect();
        let (key, mut budget) = match <[_; 1]>::try_from(budgets) {
            Ok([one]) => one,
            Err(budgets) if budgets.is_empty() => return Ok(None),
            Err(_) => {
                let message =
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(ApiError::new(500, "", message));
            }
        };
        if self.passes_unready(pod, &budget) {
            return Ok(None);
        }
        let observed = budget["status"]["observedGeneration"].as_i64().unwrap_or(0);
        if observed < budget["metadata"]["generation"].as_i64().unwrap_or(1) {
            let mut error =
                refused(&format!("The disruption budget {} is still being processed by the server.", key.name));
            error.retry_after = (self.regime == Regime::V1_36).then_some(10);
            return Err(error);
        }
        let count = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
        let (allowed, desired, healthy) =
            (count("disruptionsAllowed"), count("desiredHealthy"), count("currentHealthy"));
        if allowed <= 0 {
            let name = &key.name;
            return Err(refused(&match self.regime {
                Regime::V1_36 if healthy > desired => {
                    format!("The disruption budget {name} does not allow evicting pods currently")
                }
                _ => format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"),
            }));
        }
        budget["status"]["disruptionsAllowed"] = json!(allowed - 1);
        budget["status"]["disruptedPods"][text(&pod["metadata"]["name"])] = json!(now());
        Ok(Some((key, budget)))
    }

    fn passes_unready(&self, pod: &Value, budget: &Value) -> bool {
        let status = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
        let always = self.regime == Regime::V1_36 && budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
        let enough = status("currentHealthy") >= status("desiredHealthy") && status("desiredHealthy") > 0;
        !is_true(pod, "Ready") && (always || enough)
    }

    /// The refusal of an eviction whose uid is not that of the Pod.
    fn other_pod(&self, target: &Target, wanted: &str, actual: &str) -> ApiError {
        if self.regime == Regime::V1_20 {
            return uid_mismatch(target, wanted, actual);
        }
        let why = format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({actual}). The object might have been deleted and then recreated"
        );
        ApiError::conflict("Pod", &target.name, &why)
    }

    /// A later server says in the Pod's status why it goes.
    fn mark(&self, store: &mut Inner, target: &Target, pod: &Arc<Value>, options: &DeleteOptions) -> Arc<Value> {
        if self.regime == Regime::V1_20 || options.dry_run || is_true(pod, "DisruptionTarget") {
            return pod.clone();
        }
        let mut marked = pod.as_ref().clone();
        let mut conditions: Vec<Value> = items(&pod["status"]["conditions"]).cloned().collect();
        conditions.push(json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting", "lastTransitionTime": now()}));
        marked["status"]["conditions"] = json!(conditions);
        store.put(target.key(), marked)
    }
}

/// 429, with the budget's words as its cause.
fn refused(cause: &str) -> ApiError {
    ApiError::new(429, "TooManyRequests", REFUSED).with_cause("DisruptionBudget", cause)
}

/// Pods that are not serving, or are going anyway, are nobody's disruption.
fn ignores_budgets(pod: &Value) -> bool {
    matches!(text(&pod["status"]["phase"]), "Pending" | "Succeeded" | "Failed")
        || !pod["metadata"]["deletionTimestamp"].is_null()
}

/// Whether a budget selects a Pod. An empty selector selects all in policy/v1, none in v1beta1.
pub fn selects(budget: &Value, pod: &Value) -> bool {
    let empty = items(&budget["spec"]["selector"]["matchExpressions"]).next().is_none()
        && budget["spec"]["selector"]["matchLabels"].as_object().is_none_or(serde_json::Map::is_empty);
    if empty && budget["apiVersion"] == "policy/v1beta1" {
        return false;
    }
    Labels::from_object(&budget["spec"]["selector"]).is_some_and(|labels| labels.matches(pod))
}
