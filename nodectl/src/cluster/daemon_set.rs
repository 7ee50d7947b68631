//! Reading a DaemonSet: which agent it runs, with which arguments, environment, files and images.

use std::collections::BTreeMap;

use serde_json::Value;

use super::facts::{AgentPod, ClusterFacts};
use super::object::{annotation, find_in, items, label, name, namespace, set, text, text_map, texts, unset};
use crate::cni::{Cni, NODE_LABEL};

/// Where the pod template's specification stands.
const POD: &str = "/spec/template/spec";

/// Node selector of the pod template.
const NODE_SELECTOR: [&str; 4] = ["spec", "template", "spec", "nodeSelector"];

/// The pod template's containers, init containers left out.
pub fn containers(daemon_set: &Value) -> &[Value] {
    items(daemon_set, &format!("{POD}/containers"))
}

/// The pod template's init containers.
pub fn init_containers(daemon_set: &Value) -> &[Value] {
    items(daemon_set, &format!("{POD}/initContainers"))
}

/// Command and arguments of a container.
pub fn argv(container: &Value) -> Vec<String> {
    let mut argv = texts(container, "/command");
    argv.extend(texts(container, "/args"));
    argv
}

/// The container that runs flanneld, known by its name over all manifest generations or by the program it starts.
pub fn flannel_container(daemon_set: &Value) -> Option<&Value> {
    containers(daemon_set).iter().find(|container| {
        let starts_flanneld = || argv(container).iter().any(|word| word.rsplit('/').next() == Some("flanneld"));
        text(container, "/name") == Some("kube-flannel") || starts_flanneld()
    })
}

/// The container that runs calico-node.
pub fn calico_container(daemon_set: &Value) -> Option<&Value> {
    containers(daemon_set).iter().find(|container| text(container, "/name") == Some("calico-node"))
}

/// Which agent a pod is.
pub fn agent_of(facts: &ClusterFacts, pod: &AgentPod) -> Option<Cni> {
    let daemon_set = find_in(&facts.daemon_sets, &pod.namespace, &pod.daemon_set)?;
    match (calico_container(daemon_set), flannel_container(daemon_set)) {
        // Canal, which has both, is the side that is left.
        (_, Some(_)) => Some(Cni::Flannel),
        (Some(_), None) => Some(Cni::Calico),
        (None, None) => None,
    }
}

/// It runs both agents in one pod: Canal.
pub fn is_canal(daemon_set: &Value) -> bool {
    flannel_container(daemon_set).is_some() && calico_container(daemon_set).is_some()
}

/// Images of the pod template, init containers first, each once.
pub fn images(daemon_set: &Value) -> Vec<String> {
    let mut images: Vec<String> = Vec::new();
    for container in init_containers(daemon_set).iter().chain(containers(daemon_set)) {
        if let Some(image) = text(container, "/image")
            && !images.iter().any(|i| i == image)
        {
            images.push(image.to_owned());
        }
    }
    images
}

/// The pod template's node selector.
pub fn node_selector(daemon_set: &Value) -> BTreeMap<String, String> {
    text_map(daemon_set, &format!("{POD}/nodeSelector"))
}

/// The DaemonSet with our label in its node selector.
pub fn with_our_selector(daemon_set: &Value, cni: Cni) -> Value {
    let mut changed = daemon_set.clone();
    let [a, b, c, d] = NODE_SELECTOR;
    set(&mut changed, &[a, b, c, d, NODE_LABEL], Value::from(cni.name()));
    changed
}

/// The DaemonSet without our label in its node selector.
pub fn without_our_selector(daemon_set: &Value) -> Value {
    let mut changed = daemon_set.clone();
    let [a, b, c, d] = NODE_SELECTOR;
    unset(&mut changed, &[a, b, c, d, NODE_LABEL]);
    if selects_our_label(daemon_set) && node_selector(&changed).is_empty() {
        unset(&mut changed, &NODE_SELECTOR);
    }
    changed
}

/// felix' variable that wins over what the FelixConfiguration says of VXLAN and over what follows from the pools.
pub const VXLAN_SWITCH: &str = "FELIX_VXLANENABLED";

/// A pod specification whose felix leaves VXLAN alone whatever pools there are.
pub fn leaves_vxlan_alone(pod_spec: &Value) -> bool {
    let container = items(pod_spec, "/containers").iter().find(|c| text(c, "/name") == Some("calico-node"));
    let value = container.and_then(|c| items(c, "/env").iter().find(|v| name_of_variable(v) == Some(VXLAN_SWITCH)));
    value.and_then(|v| text(v, "/value")).is_some_and(|value| value.eq_ignore_ascii_case("false"))
}

/// The DaemonSet with a variable of its calico-node set, or taken away.
pub fn with_variable(daemon_set: &Value, variable: &str, value: Option<&Value>) -> Value {
    let mut changed = daemon_set.clone();
    let containers = changed.pointer_mut(&format!("{POD}/containers")).and_then(Value::as_array_mut);
    let Some(container) = containers.into_iter().flatten().find(|c| text(c, "/name") == Some("calico-node")) else {
        return changed;
    };
    let mut env = items(container, "/env").to_vec();
    let at = env.iter().position(|v| name_of_variable(v) == Some(variable));
    match (at, value) {
        (Some(at), Some(value)) => drop(std::mem::replace(&mut env[at], value.clone())),
        (Some(at), None) => drop(env.remove(at)),
        (None, Some(value)) => env.push(value.clone()),
        (None, None) => {}
    }
    if container.get("env").is_some() || !env.is_empty() {
        set(container, &["env"], Value::Array(env));
    }
    changed
}

/// Its node selector asks for our label.
pub fn selects_our_label(daemon_set: &Value) -> bool {
    node_selector(daemon_set).contains_key(NODE_LABEL)
}

/// The ServiceAccount of its pods.
pub fn service_account(daemon_set: &Value) -> Option<&str> {
    text(daemon_set, &format!("{POD}/serviceAccountName"))
        .or_else(|| text(daemon_set, &format!("{POD}/serviceAccount")))
}

/// Names of the ConfigMaps that its pods mount or read variables from.
pub fn config_map_names(daemon_set: &Value) -> Vec<String> {
    let mounted = items(daemon_set, &format!("{POD}/volumes")).iter().filter_map(|v| text(v, "/configMap/name"));
    let every = init_containers(daemon_set).iter().chain(containers(daemon_set));
    let variables = every.flat_map(|c| items(c, "/env")).filter_map(|v| text(v, "/valueFrom/configMapKeyRef/name"));
    let mut names: Vec<String> = mounted.chain(variables).map(str::to_owned).collect();
    names.sort();
    names.dedup();
    names
}

/// Value of a variable of a container; one that comes from a ConfigMap is looked up there.
pub fn variable(daemon_set: &Value, container: &Value, config_maps: &[Value], wanted: &str) -> Option<String> {
    let variable = items(container, "/env").iter().find(|v| name_of_variable(v) == Some(wanted))?;
    if let Some(value) = text(variable, "/value") {
        return Some(value.to_owned());
    }
    let (map, key) = config_map_key(variable)?;
    let config_map = find_in(config_maps, namespace(daemon_set), map)?;
    Some(config_map.pointer("/data")?.get(key)?.as_str()?.to_owned())
}

/// The ConfigMap and key that a variable of any of its containers comes from.
pub fn variable_source<'a>(daemon_set: &'a Value, wanted: &str) -> Option<(&'a str, &'a str)> {
    let every = init_containers(daemon_set).iter().chain(containers(daemon_set));
    every.flat_map(|c| items(c, "/env")).find(|v| name_of_variable(v) == Some(wanted)).and_then(config_map_key)
}

/// A variable of the container that installs the CNI plugin.
pub fn install_variable(facts: &ClusterFacts, daemon_set: &Value, wanted: &str) -> Option<String> {
    let mut containers = init_containers(daemon_set).iter().chain(containers(daemon_set));
    containers.find_map(|c| variable(daemon_set, c, &facts.config_maps, wanted))
}

fn name_of_variable(variable: &Value) -> Option<&str> {
    text(variable, "/name")
}

fn config_map_key(variable: &Value) -> Option<(&str, &str)> {
    Some((text(variable, "/valueFrom/configMapKeyRef/name")?, text(variable, "/valueFrom/configMapKeyRef/key")?))
}

/// The directory of the node that the pods see at a path which ends in `/etc/cni/net.d`.
pub fn cni_config_dir(daemon_set: &Value) -> Option<String> {
    let every = init_containers(daemon_set).iter().chain(containers(daemon_set));
    let mount = every
        .flat_map(|c| items(c, "/volumeMounts"))
        .find(|m| text(m, "/mountPath").is_some_and(|path| path.trim_end_matches('/').ends_with("/cni/net.d")))?;
    let volume = text(mount, "/name")?;
    let volumes = items(daemon_set, &format!("{POD}/volumes"));
    let host = volumes.iter().find(|v| text(v, "/name") == Some(volume)).and_then(|v| text(v, "/hostPath/path"))?;
    Some(host.trim_end_matches('/').to_owned())
}

/// Who else claims to manage an object, so that what we write to it would be undone: `what` manages it, known by `mark`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manager {
    /// Helm, Argo CD, ...
    pub what: &'static str,
    /// The label or annotation that says so.
    pub mark: String,
}

/// Marks that tools of delivery leave on what they manage.
const DELIVERY_MARKS: [(&str, &str); 7] = [
    ("Argo CD", "argocd.argoproj.io/tracking-id"),
    ("Argo CD", "argocd.argoproj.io/instance"),
    ("Flux", "kustomize.toolkit.fluxcd.io/name"),
    ("Flux", "helm.toolkit.fluxcd.io/name"),
    ("Rancher Fleet", "objectset.rio.cattle.io/id"),
    ("kapp", "kapp.k14s.io/app"),
    ("Helm", "meta.helm.sh/release-name"),
];

/// The delivery tool that manages an object, if any.
pub fn delivery(object: &Value) -> Option<Manager> {
    for (what, key) in DELIVERY_MARKS {
        if let Some(value) = annotation(object, key).or_else(|| label(object, key)) {
            return Some(Manager { what, mark: format!("{key}={value}") });
        }
    }
    let by = label(object, "app.kubernetes.io/managed-by")?;
    let what = match by {
        "Helm" => "Helm",
        "tigera-operator" => "the Tigera operator",
        _ => return None,
    };
    Some(Manager { what, mark: format!("app.kubernetes.io/managed-by={by}") })
}

/// The mark of Kubernetes' add-on manager, which puts back what it manages every minute.
pub fn addon_manager(object: &Value) -> Option<Manager> {
    ["addonmanager.kubernetes.io/mode", "kubernetes.io/cluster-service"].iter().find_map(|key| {
        let value = label(object, key)?;
        Some(Manager { what: "the add-on manager", mark: format!("{key}={value}") })
    })
}

/// The controller that owns an object, as `Kind name`.
pub fn owner(object: &Value) -> Option<String> {
    let owner = items(object, "/metadata/ownerReferences").first()?;
    Some(format!("{} {}", text(owner, "/kind")?, text(owner, "/name")?))
}

/// `namespace/name` of an object.
pub fn full_name(object: &Value) -> String {
    format!("{}/{}", namespace(object), name(object))
}
