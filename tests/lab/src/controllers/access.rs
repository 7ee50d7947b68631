//! How controllers reach objects: in the store of this process, or over a client where the API server is another program.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::apiserver::Regime;
use crate::apiserver::api::{Api, Target};
use crate::apiserver::delete::DeleteOptions;
use crate::apiserver::error::ApiError;
use crate::apiserver::identity::User;
use crate::apiserver::modify::PatchRequest;
use crate::apiserver::patch::PatchKind;
use crate::apiserver::value::text;
use crate::client::{Client, ClientError, ClientResult};

/// Where the objects are.
pub enum Access {
    /// In this process.
    Local(Arc<Api>),
    /// Behind an API server of this regime.
    Remote(Client, Regime),
}

/// Built-in resources that controllers use, with the path of their group and version.
const PATHS: &[(&str, &str)] = &[
    ("daemonsets.apps", "/apis/apps/v1"),
    ("deployments.apps", "/apis/apps/v1"),
    ("replicasets.apps", "/apis/apps/v1"),
    ("leases.coordination.k8s.io", "/apis/coordination.k8s.io/v1"),
];

impl Access {
    /// Changes with every write; `None` while the API server does not answer.
    pub fn revision(&self) -> Option<u64> {
        match self {
            Self::Local(api) => Some(api.store.transaction(|store| store.revision())),
            // The newest change to anything, which every list tells; this one is as good as empty.
            Self::Remote(client, _) => {
                let newest = client.get("/api/v1/namespaces/kube-public/secrets?limit=1").ok()?;
                text(&newest["metadata"]["resourceVersion"]).parse().ok()
            }
        }
    }

    /// All objects of "pods", "daemonsets.apps", ...; none if there is no such resource. A server that does not answer is
    /// an error: what cannot be seen must not be taken for gone.
    pub fn list(&self, resource: &str) -> ClientResult<Vec<Arc<Value>>> {
        match self {
            Self::Local(api) => Ok(api
                .store
                .transaction(|store| store.list(resource, None).map(|(_, object)| object.clone()).collect())),
            Self::Remote(client, regime) => match client.get(&path(*regime, resource, "", "")) {
                Err(error) if error.code == 404 => Ok(Vec::new()),
                listed => Ok(whole(listed?)),
            },
        }
    }

    /// Creates an object in the namespace that it names.
    pub fn create(&self, resource: &str, object: &Value) {
        let namespace = text(&object["metadata"]["namespace"]);
        let outcome = match self {
            Self::Local(api) => target(api, resource, namespace, "")
                .and_then(|target| api.create(&User::controller(), &target, object.clone(), false))
                .map_err(|error| (error.code, error.message)),
            Self::Remote(client, regime) => {
                client.create(&path(*regime, resource, namespace, ""), object).map_err(remote)
            }
        };
        report("create", resource, text(&object["metadata"]["name"]), outcome);
    }

    /// Merge-patches an object, or its status.
    pub fn patch(&self, resource: &str, object: &Value, subresource: &str, patch: &Value) {
        let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        let outcome = match self {
            Self::Local(api) => target(api, resource, namespace, name)
                .and_then(|mut target| {
                    target.subresource = subresource.into();
                    let request = PatchRequest { kind: PatchKind::Merge, patch, manager: "", force: false };
                    api.patch(&User::controller(), &target, &request, false).map(|written| written.object)
                })
                .map_err(|error| (error.code, error.message)),
            Self::Remote(client, regime) => {
                let mut path = path(*regime, resource, namespace, name);
                if !subresource.is_empty() {
                    path = format!("{path}/{subresource}");
                }
                client.patch(&path, PatchKind::Merge, patch).map_err(remote)
            }
        };
        report("patch", resource, name, outcome);
    }

    /// Writes the finalizers of a namespace, for which there is a subresource of its own.
    pub fn finalize(&self, namespace: &Value) {
        let name = text(&namespace["metadata"]["name"]);
        let outcome = match self {
            Self::Local(api) => target(api, "namespaces", "", name)
                .and_then(|mut target| {
                    target.subresource = "finalize".into();
                    api.update(&User::controller(), &target, namespace.clone(), false)
                })
                .map_err(|error| (error.code, error.message)),
            Self::Remote(client, regime) => {
                client.update(&format!("{}/finalize", path(*regime, "namespaces", "", name)), namespace).map_err(remote)
            }
        };
        report("finalize", "namespaces", name, outcome);
    }

    /// Deletes this very object; with a grace of its own unless one is given.
    pub fn delete(&self, resource: &str, object: &Value, grace: Option<i64>) {
        let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
        let uid = text(&object["metadata"]["uid"]);
        let outcome = match self {
            Self::Local(api) => {
                let options = DeleteOptions { uid: Some(uid.into()), grace, ..DeleteOptions::default() };
                target(api, resource, namespace, name)
                    .and_then(|target| api.delete(&User::controller(), &target, &options))
                    .map_err(|error| (error.code, error.message))
            }
            Self::Remote(client, regime) => {
                let mut options = json!({"preconditions": {"uid": uid}});
                if let Some(grace) = grace {
                    options["gracePeriodSeconds"] = json!(grace);
                }
                client.delete_with(&path(*regime, resource, namespace, name), &options).map_err(remote)
            }
        };
        report("delete", resource, name, outcome);
    }

    /// Binds a Pod to a node.
    pub fn bind(&self, pod: &Value, node: &str) {
        let (namespace, name) = (text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "namespace": namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
        let outcome = match self {
            Self::Local(api) => target(api, "pods", namespace, name)
                .and_then(|target| api.bind(&target, &binding))
                .map_err(|error| (error.code, error.message)),
            Self::Remote(client, regime) => {
                client.create(&format!("{}/binding", path(*regime, "pods", namespace, name)), &binding).map_err(remote)
            }
        };
        report("bind", "pods", name, outcome);
    }
}

/// The items of a list with the kind that only the list itself names.
fn whole(mut list: Value) -> Vec<Arc<Value>> {
    let (version, kind) = (list["apiVersion"].take(), text(&list["kind"]).trim_end_matches("List").to_string());
    let items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let named = |mut object: Value| {
        object["apiVersion"] = version.clone();
        object["kind"] = json!(kind);
        Arc::new(object)
    };
    items.into_iter().map(named).collect()
}

fn target(api: &Api, resource: &str, namespace: &str, name: &str) -> Result<Target, ApiError> {
    api.target(resource, namespace, name)
}

fn remote(error: ClientError) -> (u16, String) {
    (error.code, error.message)
}

fn path(regime: Regime, resource: &str, namespace: &str, name: &str) -> String {
    let base = match PATHS.iter().find(|(known, _)| *known == resource) {
        Some((_, base)) => (*base).to_string(),
        None => match resource.split_once('.') {
            Some(("poddisruptionbudgets", group)) => format!("/apis/{group}/{}", regime.policy()),
            Some((_, group)) => format!("/apis/{group}/v1"),
            None => "/api/v1".into(),
        },
    };
    let plural = resource.split('.').next().unwrap_or_default();
    let space = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
    let name = if name.is_empty() { String::new() } else { format!("/{name}") };
    format!("{base}{space}/{plural}{name}")
}

/// A lost race is put right in the next round; anything else is worth a line in the log.
fn report<T>(verb: &str, resource: &str, name: &str, outcome: Result<T, (u16, String)>) {
    if let Err((code, message)) = outcome
        && !matches!(code, 404 | 409)
    {
        eprintln!("controllers: cannot {verb} {resource} {name}: {message}");
    }
}
