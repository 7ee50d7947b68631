//! Evictions: the only way to end a pod that respects disruption budgets.

use serde_json::{Value, json};

use super::http::{Call, Method};
use super::{Kube, KubeError, Write, target};
use crate::fault;

/// A pod to evict.
#[derive(Debug, Clone, Copy)]
pub struct Evictee<'a> {
    /// Namespace.
    pub namespace: &'a str,
    /// Name.
    pub name: &'a str,
    /// Uid: without it a StatefulSet's next pod of the same name could be hit.
    pub uid: &'a str,
    /// Seconds to end in, instead of the pod's own.
    pub grace_seconds: Option<u32>,
}

/// What the server said to an eviction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Eviction {
    /// The pod ends, or would.
    Accepted,
    /// That pod is not there any more.
    Gone,
    /// Not now, or never; the sentence names the budget.
    Blocked(String),
}

impl Kube {
    /// Evicts a pod. A budget that does not allow it now is an answer, not an error, and is not tried again here.
    pub fn evict(&self, pod: Evictee<'_>, write: Write) -> Result<Eviction, KubeError> {
        if !write.dry_run {
            fault::point("kube.evict");
        }
        outcome(self.send_eviction(pod, write, &self.eviction_version()?), pod.namespace)
    }

    /// The group and version of the body that this server takes for an eviction: before 1.22 `policy/v1beta1` alone.
    fn eviction_version(&self) -> Result<String, KubeError> {
        if let Some(known) = self.inner.eviction.get() {
            return Ok(known.clone());
        }
        let found = self.get("/api/v1")?;
        let resources = found.get("resources").and_then(Value::as_array).into_iter().flatten();
        let text = |resource: &Value, field: &str| resource.get(field).and_then(Value::as_str).map(str::to_owned);
        let mut evictions = resources.filter(|r| text(r, "name").as_deref() == Some("pods/eviction"));
        let version = evictions.find_map(|r| Some(format!("{}/{}", text(r, "group")?, text(r, "version")?)));
        let version = version.ok_or_else(|| {
            KubeError::local(&anyhow::anyhow!(
                "the API server offers no evictions, so no disruption budget would be respected"
            ))
        })?;
        Ok(self.inner.eviction.get_or_init(|| version).clone())
    }

    /// Asks whether a pod may be evicted now: `None` if it may (or has gone), else why not. Nothing is changed.
    pub fn may_evict(&self, namespace: &str, name: &str, uid: &str) -> Result<Option<String>, KubeError> {
        // A dry run evaluates the budgets and does not use them up.
        let pod = Evictee { namespace, name, uid, grace_seconds: None };
        match self.evict(pod, Write::DRY)? {
            Eviction::Accepted | Eviction::Gone => Ok(None),
            Eviction::Blocked(why) => Ok(Some(why)),
        }
    }

    fn send_eviction(&self, pod: Evictee<'_>, write: Write, version: &str) -> Result<Value, KubeError> {
        let mut options = json!({"preconditions": {"uid": pod.uid}});
        if let Some(seconds) = pod.grace_seconds {
            options["gracePeriodSeconds"] = seconds.into();
        }
        if write.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        let body = json!({
            "apiVersion": version,
            "kind": "Eviction",
            "metadata": {"namespace": pod.namespace, "name": pod.name},
            "deleteOptions": options,
        });
        let path = format!("/api/v1/namespaces/{}/pods/{}/eviction", pod.namespace, pod.name);
        let query: &[(&str, &str)] = if write.dry_run { &[("dryRun", "All")] } else { &[] };
        self.send(&Call {
            method: Method::Post,
            target: target(&path, query),
            content_type: "application/json",
            body: Some(body.to_string().into_bytes()),
            // The uid makes a second one harmless.
            idempotent: true,
            any_version: false,
        })
    }
}

fn outcome(answer: Result<Value, KubeError>, namespace: &str) -> Result<Eviction, KubeError> {
    let error = match answer {
        Ok(_) => return Ok(Eviction::Accepted),
        Err(error) => error,
    };
    let blocked = match error.code {
        // Another pod has the name now.
        Some(404 | 409) => return Ok(Eviction::Gone),
        Some(429) => true,
        Some(500) => error.is_about_two_budgets(),
        Some(403) => error.has_cause("NamespaceTerminating"),
        _ => false,
    };
    if !blocked {
        return Err(error);
    }
    let causes = error.causes.iter().filter(|(_, message)| !message.is_empty());
    let causes: Vec<String> = causes.map(|(_, message)| sentence(message, namespace)).collect();
    let detail = if causes.is_empty() { error.message.clone() } else { causes.join("; ") };
    Ok(Eviction::Blocked(detail))
}

/// The server's cause names the budget without its namespace: "The disruption budget web needs 2 healthy pods and has 2
/// currently".
fn sentence(cause: &str, namespace: &str) -> String {
    let budget = cause.strip_prefix("The disruption budget ").and_then(|rest| rest.split_once(' '));
    budget.map_or_else(
        || cause.to_owned(),
        |(name, rest)| format!("PDB {namespace}/{name} allows no disruption now: it {}", rest.trim_end_matches('.')),
    )
}
