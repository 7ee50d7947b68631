//! What kubectl and client libraries ask first: versions, groups and resources.

use serde_json::{Value, json};

use super::api::Api;
use super::options::Regime;
use super::resources::{self, ResourceType};

impl Api {
    /// The answer for a path that is no resource, if there is one.
    pub fn discovery(&self, path: &str) -> Option<Value> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let all = || self.store.transaction(|store| resources::all(self.regime, store));
        match parts.as_slice() {
            ["version"] => Some(self.version()),
            ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
            ["api", "v1"] => Some(self.resource_list("", "v1", &all())),
            ["apis"] => Some(group_list(&all())),
            ["apis", group] => {
                group_list(&all())["groups"].as_array()?.iter().find(|found| found["name"] == *group).cloned()
            }
            ["apis", group, version] => {
                let all = all();
                let known = all.iter().any(|kind| kind.group == *group && kind.version == *version);
                known.then(|| self.resource_list(group, version, &all))
            }
            _ => None,
        }
    }

    fn version(&self) -> Value {
        let git = self.regime.git_version();
        let minor = git.split('.').nth(1).unwrap_or_default();
        json!({"major": "1", "minor": minor, "gitVersion": git, "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "2026-01-01T00:00:00Z", "goVersion": "", "compiler": "", "platform": "linux/amd64"})
    }

    fn resource_list(&self, group: &str, version: &str, all: &[ResourceType]) -> Value {
        const READ: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
        let mut rows = Vec::new();
        for kind in all.iter().filter(|kind| kind.group == group && kind.version == version) {
            rows.push(json!({"name": kind.resource, "singularName": kind.singular, "namespaced": kind.namespaced,
                "kind": kind.kind, "verbs": READ, "shortNames": kind.short_names}));
            if kind.status {
                rows.push(json!({"name": format!("{}/status", kind.resource), "singularName": "", "namespaced": kind.namespaced,
                    "kind": kind.kind, "verbs": ["get", "patch", "update"]}));
            }
        }
        if group.is_empty() {
            let eviction = if self.regime == Regime::V1_20 { "v1beta1" } else { "v1" };
            rows.push(json!({"name": "pods/eviction", "singularName": "", "namespaced": true, "group": "policy",
                "version": eviction, "kind": "Eviction", "verbs": ["create"]}));
            rows.push(json!({"name": "pods/binding", "singularName": "", "namespaced": true, "kind": "Binding", "verbs": ["create"]}));
            rows.push(json!({"name": "serviceaccounts/token", "singularName": "", "namespaced": true,
                "group": "authentication.k8s.io", "version": "v1", "kind": "TokenRequest", "verbs": ["create"]}));
        }
        let version = if group.is_empty() { version.to_string() } else { format!("{group}/{version}") };
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": rows})
    }
}

fn group_list(all: &[ResourceType]) -> Value {
    let mut groups: Vec<Value> = Vec::new();
    for kind in all.iter().filter(|kind| !kind.group.is_empty()) {
        let version = json!({"groupVersion": kind.api_version(), "version": kind.version});
        match groups.iter_mut().find(|group| group["name"] == kind.group) {
            Some(group) => {
                if let Some(versions) = group["versions"].as_array_mut().filter(|versions| !versions.contains(&version))
                {
                    versions.push(version);
                }
            }
            None => groups.push(json!({"kind": "APIGroup", "apiVersion": "v1", "name": kind.group,
                "versions": [version.clone()], "preferredVersion": version})),
        }
    }
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}
