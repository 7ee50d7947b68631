//! The `default` ServiceAccount of every namespace; the lab's own API server makes it itself.

use serde_json::json;

use super::access::Access;
use crate::client::ClientResult;

/// Creates those that are missing.
pub fn run(access: &Access) -> ClientResult<()> {
    let accounts = access.list("serviceaccounts")?;
    for namespace in access.list("namespaces")? {
        let name = &namespace["metadata"]["name"];
        let has = accounts
            .iter()
            .any(|account| account["metadata"]["namespace"] == *name && account["metadata"]["name"] == "default");
        if !has && namespace["metadata"]["deletionTimestamp"].is_null() {
            let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": "default", "namespace": name}});
            access.create("serviceaccounts", &account);
        }
    }
    Ok(())
}
