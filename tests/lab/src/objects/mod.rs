//! The objects that the lab creates, as JSON.

pub mod calico;
pub mod calico_crds;
pub mod calico_roles;
pub mod canal;
pub mod flannel;
pub mod workloads;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Client, ClientResult};

/// An object and the collection it is created in.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// For instance `/apis/apps/v1/namespaces/kube-system/daemonsets`.
    pub collection: String,
    /// The object.
    pub object: Value,
}

impl Manifest {
    /// From its parts.
    pub fn new(collection: impl Into<String>, object: Value) -> Self {
        Self { collection: collection.into(), object }
    }

    /// The path of the object itself.
    pub fn path(&self) -> String {
        format!("{}/{}", self.collection, self.object["metadata"]["name"].as_str().unwrap_or_default())
    }
}

/// Creates objects in order; those that are there already stay as they are.
pub fn install(client: &Client, manifests: &[Manifest]) -> ClientResult<()> {
    manifests.iter().try_for_each(|manifest| match client.ensure(&manifest.collection, &manifest.object) {
        // Budgets came to policy/v1 with 1.21.
        Err(error) if error.code == 404 && manifest.collection.starts_with("/apis/policy/v1/") => {
            let mut older = manifest.object.clone();
            older["apiVersion"] = json!("policy/v1beta1");
            client.ensure(&manifest.collection.replace("/policy/v1/", "/policy/v1beta1/"), &older)
        }
        Ok(()) if manifest.object["kind"] == "CustomResourceDefinition" => served(client, &manifest.object["spec"]),
        outcome => outcome,
    })
}

/// Waits until a real API server serves what a definition defines, which it does a moment after the definition was made.
fn served(client: &Client, definition: &Value) -> ClientResult<()> {
    let text = |pointer| definition.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let path = format!("/apis/{}/{}/{}", text("/group"), text("/versions/0/name"), text("/names/plural"));
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        match client.get(&path) {
            Err(error) if matches!(error.code, 404 | 429) && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(20))
            }
            outcome => return outcome.map(drop),
        }
    }
}

/// The Service that a real API server makes for itself.
pub fn kubernetes_service() -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"clusterIP": "10.96.0.1", "type": "ClusterIP",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}]}})
}

/// A Node as a kubelet registers it: not Ready before its first heartbeat.
pub fn node(name: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "annotations": {"node.alpha.kubernetes.io/ttl": "0"},
            "labels": {"beta.kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
        "spec": {},
        "status": {
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
            "capacity": {"cpu": "2", "memory": "2Gi", "pods": "250"},
            "allocatable": {"cpu": "2", "memory": "2Gi", "pods": "250"},
            "conditions": [],
            "nodeInfo": {"kubeletVersion": "v1.36.2", "containerRuntimeVersion": "containerd://2.1.9", "kernelVersion": "",
                "osImage": "Debian GNU/Linux 12 (bookworm)", "architecture": "amd64", "operatingSystem": "linux",
                "machineID": "", "systemUUID": "", "bootID": ""}}})
}

/// A namespace.
pub fn namespace(name: &str) -> Manifest {
    Manifest::new("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
}

/// A ServiceAccount.
pub fn service_account(namespace: &str, name: &str) -> Manifest {
    Manifest::new(
        format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}),
    )
}

/// An environment variable that the kubelet fills in.
fn from_field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}})
}

fn host_path(name: &str, path: &str) -> Value {
    json!({"name": name, "hostPath": {"path": path, "type": "DirectoryOrCreate"}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_manifest_says_what_it_is_and_where_it_goes() {
        let mut all = flannel::manifests(&flannel::Flannel::default());
        all.extend(calico_crds::manifests());
        all.extend(canal::manifests(&canal::Canal::default()));
        all.extend(calico::manifests(&calico::Calico::default()));
        all.extend(workloads::guarded("db", 3, 2));
        for manifest in all {
            let object = &manifest.object;
            assert!(object["kind"].is_string() && object["metadata"]["name"].is_string(), "{object}");
            if let Some(namespace) = object["metadata"]["namespace"].as_str() {
                assert!(manifest.collection.contains(&format!("/namespaces/{namespace}/")), "{}", manifest.collection);
            }
        }
    }
}
