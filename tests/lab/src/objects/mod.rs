//! The objects that the lab creates, as JSON.

use serde_json::{Value, json};

/// The Service that a real API server makes for itself.
pub fn kubernetes_service() -> Value {
    json!({"metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"clusterIP": "10.96.0.1", "type": "ClusterIP",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}]}})
}
