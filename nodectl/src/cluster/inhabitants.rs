//! Who lives in a namespace: every kind of object that the API server lists there, custom resources among them, for with the
//! namespace all of it goes.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;

use super::object::{items, name, text};
use crate::host::kube::Kube;

/// Kinds that follow from others, or only tell of them.
const FOLLOWERS: [&str; 3] = ["Event", "Endpoints", "EndpointSlice"];

/// Groups that show the same in every namespace, or other objects once more: OLM's catalogue, and the metrics of pods.
const VIEWS: [&str; 2] = ["packages.operators.coreos.com", "metrics.k8s.io"];

/// A kind of objects that live in namespaces and can be listed.
struct Resource {
    kind: String,
    /// Where its group and version are served.
    root: String,
    /// Plural name.
    name: String,
}

/// What lives in a namespace, as `Kind name`, without what Kubernetes puts into each and without what belongs to these DaemonSets.
pub fn inhabitants(kube: &Kube, place: &str, daemon_sets: &[String]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for resource in resources(kube)? {
        let path = format!("{}/namespaces/{place}/{}", resource.root, resource.name);
        let listed = match kube.list(&path, &[]) {
            Ok(listed) => listed,
            Err(error) if matches!(error.code, Some(404 | 405)) => continue,
            Err(error) => return Err(error).with_context(|| format!("could not see what lives in namespace {place}")),
        };
        let others = listed.iter().filter(|object| !is_of_every_namespace(&resource.kind, object));
        let others = others.filter(|object| !belongs_to(object, daemon_sets));
        found.extend(others.map(|object| format!("{} {}", resource.kind, name(object))));
    }
    // The same object may be served by several groups.
    let mut seen = BTreeSet::new();
    found.retain(|inhabitant| seen.insert(inhabitant.clone()));
    Ok(found)
}

fn is_of_every_namespace(kind: &str, object: &Value) -> bool {
    match kind {
        "ConfigMap" => name(object) == "kube-root-ca.crt",
        "ServiceAccount" => name(object) == "default",
        "Secret" => text(object, "/type") == Some("kubernetes.io/service-account-token"),
        _ => false,
    }
}

fn belongs_to(object: &Value, daemon_sets: &[String]) -> bool {
    let mut owners = items(object, "/metadata/ownerReferences").iter();
    owners.any(|owner| {
        text(owner, "/kind") == Some("DaemonSet")
            && text(owner, "/name").is_some_and(|name| daemon_sets.iter().any(|d| d == name))
    })
}

/// The kinds that the server lists in namespaces.
fn resources(kube: &Kube) -> Result<Vec<Resource>> {
    let groups = kube.get("/apis").context("could not read which kinds of objects the API server has")?;
    let mut roots = vec![(String::new(), "/api/v1".to_owned())];
    for group in items(&groups, "/groups") {
        let preferred = text(group, "/preferredVersion/groupVersion");
        let others = items(group, "/versions").iter().filter_map(|v| text(v, "/groupVersion"));
        let versions = preferred.into_iter().chain(others.filter(|v| Some(*v) != preferred));
        let group = name_of(group);
        roots.extend(versions.filter(|_| !VIEWS.contains(&group)).map(|v| (group.to_owned(), format!("/apis/{v}"))));
    }
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for (group, root) in roots {
        let listed = match kube.get(&root) {
            Ok(listed) => listed,
            Err(error) if error.is_not_found() => continue,
            // Kubernetes itself would not end a namespace while it cannot ask.
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "could not read which kinds of objects {root} has, so not what lives in flannel's namespace. To fix it: see why its \
                         server does not answer (kubectl get apiservices), or delete its APIService where it is gone for good"
                    )
                });
            }
        };
        for resource in items(&listed, "/resources").iter().filter(|r| is_listed_in_namespaces(r)) {
            let (kind, name) = (text(resource, "/kind").unwrap_or_default(), name_of(resource));
            // A kind that several versions serve is listed once.
            if !FOLLOWERS.contains(&kind) && seen.insert((group.clone(), name.to_owned())) {
                found.push(Resource { kind: kind.to_owned(), root: root.clone(), name: name.to_owned() });
            }
        }
    }
    Ok(found)
}

/// Discovery has the name at the top.
fn name_of(entry: &Value) -> &str {
    text(entry, "/name").unwrap_or_default()
}

/// A subresource has a slash in its name.
fn is_listed_in_namespaces(resource: &Value) -> bool {
    let lists = items(resource, "/verbs").iter().any(|verb| verb == "list");
    lists && resource.pointer("/namespaced") == Some(&Value::Bool(true)) && !name_of(resource).contains('/')
}
