//! Waiting for a cluster to be as it should.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;

use super::Cluster;

impl Cluster {
    /// Waits until all nodes are Ready.
    pub fn wait_nodes_ready(&self, limit: Duration) -> Result<()> {
        let client = self.client()?;
        until(limit, || {
            let nodes = client.list("/api/v1/nodes")?;
            let waiting: Vec<String> = nodes.iter().filter(|node| !has_condition(node, "Ready")).map(name).collect();
            Ok(if waiting.is_empty() {
                None
            } else {
                Some(format!("nodes that are not Ready: {}", waiting.join(", ")))
            })
        })
    }

    /// Waits until every pod is Running and Ready on a node, none is on its way out, and there are at least `count`.
    pub fn wait_pods_ready(&self, count: usize, limit: Duration) -> Result<Vec<Value>> {
        let client = self.client()?;
        let mut found = Vec::new();
        until(limit, || {
            found = client.list("/api/v1/pods")?;
            let waiting: Vec<String> = found.iter().filter(|pod| !is_ready(pod)).map(show).collect();
            Ok(match waiting.is_empty() && found.len() >= count {
                true => None,
                false => Some(format!(
                    "{} of at least {count} pods, of which not ready: {}",
                    found.len(),
                    waiting.join(", ")
                )),
            })
        })?;
        Ok(found)
    }
}

/// Asks again and again until nothing is missing; at the end of the time, says what still is.
pub fn until(limit: Duration, mut missing: impl FnMut() -> Result<Option<String>>) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        let last = match missing() {
            Ok(None) => return Ok(()),
            Ok(Some(words)) => words,
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= end {
            bail!("not reached within {limit:?}: {last}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// True when a pod runs, is ready, and stays.
pub fn is_ready(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running" && has_condition(pod, "Ready") && pod["metadata"]["deletionTimestamp"].is_null()
}

/// True when a condition is True.
fn has_condition(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

/// An object's name.
fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// A pod in a message.
fn show(pod: &Value) -> String {
    format!("{} ({})", name(pod), pod["status"]["phase"].as_str().unwrap_or("no phase"))
}
