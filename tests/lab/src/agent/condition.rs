//! The Node condition NetworkUnavailable, which flannel and Calico both write, each with reasons of its own.

use serde_json::json;

use super::api::{Answer, Api};

/// Patches NetworkUnavailable on a Node's status.
///
/// The patch is a strategic merge, so that the other conditions of the list stay as they are.
pub fn set_network_unavailable(
    api: &dyn Api,
    node: &str,
    unavailable: bool,
    reason: &str,
    message: &str,
) -> Answer<()> {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let status = if unavailable { "True" } else { "False" };
    let patch = json!({"status": {"conditions": [{
        "type": "NetworkUnavailable", "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    }]}});
    api.patch(&format!("/api/v1/nodes/{node}/status"), &patch).map(|_| ())
}
