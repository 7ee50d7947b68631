//! pods/eviction: a deletion that asks the disruption budgets first.

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
            let actual = text(&pod["metadata"]["uid"]);
            if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != actual) {
                return Err(uid_mismatch(target, wanted, actual));
            }
            if !ignores_budgets(&pod) {
                self.ask_budget(store, &pod, options.dry_run)?;
            }
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
        let name = text(&eviction["metadata"]["name"]);
        if !name.is_empty() && name != target.name {
            return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
        }
        Ok(())
    }

    fn ask_budget(&self, store: &mut Inner, pod: &Value, dry_run: bool) -> ApiResult<()> {
        let namespace = text(&pod["metadata"]["namespace"]);
        let budgets: Vec<(Key, Value)> = store
            .list(BUDGETS, Some(namespace))
            .filter(|(_, budget)| selects(budget, pod))
            .map(|(key, budget)| (key.clone(), budget.as_ref().clone()))
            .collect();
        let (key, mut budget) = match <[_; 1]>::try_from(budgets) {
            Ok([one]) => one,
            Err(budgets) if budgets.is_empty() => return Ok(()),
            Err(_) => {
                let message =
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(ApiError::new(500, "", message));
            }
        };
        let name = key.name.clone();
        let observed = budget["status"]["observedGeneration"].as_i64().unwrap_or(0);
        if observed < budget["metadata"]["generation"].as_i64().unwrap_or(1) {
            let mut error = ApiError::new(429, "TooManyRequests", REFUSED).with_cause(
                "DisruptionBudget",
                &format!("The disruption budget {name} is still being processed by the server."),
            );
            error.retry_after = (self.regime == Regime::V1_36).then_some(10);
            return Err(error);
        }
        if self.passes_unready(pod, &budget) {
            return Ok(());
        }
        let allowed = budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0);
        if allowed <= 0 {
            let cause = format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                budget["status"]["desiredHealthy"].as_i64().unwrap_or(0),
                budget["status"]["currentHealthy"].as_i64().unwrap_or(0)
            );
            return Err(ApiError::new(429, "TooManyRequests", REFUSED).with_cause("DisruptionBudget", &cause));
        }
        if !dry_run {
            budget["status"]["disruptionsAllowed"] = json!(allowed - 1);
            budget["status"]["disruptedPods"][text(&pod["metadata"]["name"])] = json!(now());
            store.put(key, budget);
        }
        Ok(())
    }

    fn passes_unready(&self, pod: &Value, budget: &Value) -> bool {
        let status = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
        let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
        let enough = status("currentHealthy") >= status("desiredHealthy") && status("desiredHealthy") > 0;
        self.regime == Regime::V1_36 && !is_true(pod, "Ready") && (always || enough)
    }
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
