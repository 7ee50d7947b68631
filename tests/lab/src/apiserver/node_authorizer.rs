//! The Node authorizer: what a kubelet's certificate may ask for, in both regimes.
//!
//! Follows plugin/pkg/auth/authorizer/node; it allows or has no opinion, never forbids, so that roles can add rights.

use serde_json::Value;

use super::identity::User;
use super::options::Regime;
use super::rbac;
use super::request::RequestInfo;
use super::selector::Fields;
use super::store::Inner;
use super::value::{items, text};

/// The static part, NodeRules of plugin/pkg/auth/authorizer/rbac/bootstrappolicy.
const RULES: &[(&str, &str, &str)] = &[
    ("authentication.k8s.io", "tokenreviews", "create"),
    ("authorization.k8s.io", "subjectaccessreviews localsubjectaccessreviews", "create"),
    ("core", "services", "get list watch"),
    ("core", "nodes", "create get list watch update patch"),
    ("core", "nodes/status", "update patch"),
    ("core", "events", "create update patch"),
    ("core", "pods", "get list watch create delete"),
    ("core", "pods/status", "update patch"),
    ("core", "pods/eviction", "create"),
    ("core", "persistentvolumeclaims persistentvolumes endpoints", "get"),
    ("certificates.k8s.io", "certificatesigningrequests", "create get list watch"),
    ("storage.k8s.io", "volumeattachments", "get"),
    ("storage.k8s.io", "csidrivers", "get list watch"),
    ("storage.k8s.io", "csinodes", "get create update patch delete"),
    ("node.k8s.io", "runtimeclasses", "get list watch"),
];

/// Why a node's request was not allowed; often empty.
type NoOpinion = String;

/// Whether `user`, being the node `node`, may make the request.
pub fn authorize(
    store: &Inner,
    regime: Regime,
    user: &User,
    node: &str,
    request: &RequestInfo,
) -> Result<(), NoOpinion> {
    debug_assert_eq!(user.node(), Some(node));
    let statically = || if RULES.iter().any(|rule| rbac::covers(rule, request)) { Ok(()) } else { Err(String::new()) };
    match (request.group.as_str(), request.full_resource().as_str()) {
        ("", "configmaps" | "secrets") => configuration(store, node, request),
        ("", "serviceaccounts/token") => account_token(store, node, request),
        ("coordination.k8s.io", "leases") => lease(node, request),
        ("events.k8s.io", "events") if regime == Regime::V1_36 => {
            let allowed = matches!(request.verb.as_str(), "create" | "update" | "patch");
            if allowed { Ok(()) } else { Err(String::new()) }
        }
        ("", "nodes") if regime == Regime::V1_36 => own_node(node, request).and_then(|()| statically()),
        ("", "pods") if regime == Regime::V1_36 => own_pods(store, node, request).and_then(|()| statically()),
        _ => statically(),
    }
}

fn configuration(store: &Inner, node: &str, request: &RequestInfo) -> Result<(), NoOpinion> {
    if !matches!(request.verb.as_str(), "get" | "list" | "watch") || !request.subresource.is_empty() {
        return Err("can only read resources of this type".into());
    }
    if request.name.is_empty() {
        return Err("No Object name found".into());
    }
    let (resource, name) = (request.resource.as_str(), request.name.as_str());
    related(node, pods_of(store, node, &request.namespace).any(|pod| pod_uses(pod, resource, name)))
}

fn account_token(store: &Inner, node: &str, request: &RequestInfo) -> Result<(), NoOpinion> {
    if request.verb != "create" {
        return Err("can only get/create tokens of this type".into());
    }
    let name = request.name.as_str();
    let uses = |pod: &Value| text(&pod["spec"]["serviceAccountName"]) == name && !is_mirror(pod);
    related(node, pods_of(store, node, &request.namespace).any(uses))
}

fn lease(node: &str, request: &RequestInfo) -> Result<(), NoOpinion> {
    if !matches!(request.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a node lease".into());
    }
    if request.namespace != "kube-node-lease" {
        return Err(r#"can only access leases in the "kube-node-lease" system namespace"#.into());
    }
    // The name of an object to be created is not in the URL: admission looks at that one.
    if request.verb != "create" && request.name != node {
        return Err("can only access node lease with the same name as the requesting node".into());
    }
    Ok(())
}

fn own_node(node: &str, request: &RequestInfo) -> Result<(), NoOpinion> {
    match request.verb.as_str() {
        "get" | "list" | "watch" if request.name == node => Ok(()),
        "get" | "list" | "watch" if request.name.is_empty() => {
            Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        "get" | "list" | "watch" => {
            Err(format!("node '{node}' cannot read '{}', only its own Node object", request.name))
        }
        _ => Ok(()),
    }
}

fn own_pods(store: &Inner, node: &str, request: &RequestInfo) -> Result<(), NoOpinion> {
    let known = || {
        let pod = store.find("pods", &request.namespace, &request.name);
        related(node, pod.is_some_and(|pod| text(&pod["spec"]["nodeName"]) == node))
    };
    match request.verb.as_str() {
        "get" => known(),
        "list" | "watch" => {
            let fields = request.fields().unwrap_or_else(|_| Fields::default());
            if fields.required("spec.nodeName") == Some(node) {
                return Ok(());
            }
            if !request.name.is_empty() {
                return known();
            }
            Err("can only list/watch pods with spec.nodeName field selector".into())
        }
        _ => Ok(()),
    }
}

fn related(node: &str, related: bool) -> Result<(), NoOpinion> {
    if related { Ok(()) } else { Err(format!("no relationship found between node '{node}' and this object")) }
}

fn pods_of<'a>(store: &'a Inner, node: &'a str, namespace: &'a str) -> impl Iterator<Item = &'a Value> {
    let pods = store.list("pods", Some(namespace));
    pods.map(|(_, pod)| pod.as_ref()).filter(move |pod| text(&pod["spec"]["nodeName"]) == node)
}

fn is_mirror(pod: &Value) -> bool {
    !pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null()
}

/// Whether a pod mentions a ConfigMap or a Secret by name, in a volume, in its environment or as a pull secret.
fn pod_uses(pod: &Value, resource: &str, name: &str) -> bool {
    if is_mirror(pod) {
        return false;
    }
    let (volume, volume_name, projected, from, key) = if resource == "secrets" {
        ("secret", "secretName", "secret", "secretRef", "secretKeyRef")
    } else {
        ("configMap", "name", "configMap", "configMapRef", "configMapKeyRef")
    };
    let spec = &pod["spec"];
    let in_volumes = items(&spec["volumes"]).any(|found| {
        found[volume][volume_name] == name
            || items(&found["projected"]["sources"]).any(|source| source[projected]["name"] == name)
    });
    let containers = items(&spec["containers"]).chain(items(&spec["initContainers"]));
    let mut in_environment = containers.flat_map(|container| {
        let whole = items(&container["envFrom"]).map(move |source| &source[from]["name"]);
        whole.chain(items(&container["env"]).map(move |entry| &entry["valueFrom"][key]["name"]))
    });
    let pull = resource == "secrets" && items(&spec["imagePullSecrets"]).any(|secret| secret["name"] == name);
    in_volumes || pull || in_environment.any(|found| found == name)
}
