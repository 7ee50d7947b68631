//! Reading the cluster.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::daemon_set as ds;
use super::facts::{AgentPod, CalicoPolicy, ClusterFacts, FlannelRest, PolicedPod, Webhook};
use super::flannel;
use super::inhabitants;
use super::object::{CALICO_API, Kind, is_going, is_ready, items, name, namespace, set, text, text_map, unset};
use super::record::{self, Record};
use super::request::Request;
use crate::host::kube::Kube;

/// How much of the cluster a command has to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// The nodes and the agents on them.
    Agents,
    /// How the API server finds its etcd too.
    ControlPlane,
    /// Calico's settings and addresses too, policies and webhooks.
    Addresses,
    /// The same, and the addresses of all pods, which [`pod_addresses6`] reads.
    PodAddresses,
    /// What flannel's manifest installs besides its DaemonSet too.
    FlannelRest,
}

/// Reads what a command rests its decision on.
pub fn observe(kube: &Kube, scope: Scope, request: &Request) -> Result<ClusterFacts> {
    let mut facts = ClusterFacts {
        // Servers before 1.28 do not say to an administrator who asks; it is only for the record.
        user: kube.user().unwrap_or_default(),
        nodes: kube.list("/api/v1/nodes", &[])?.into_iter().map(trimmed_node).collect(),
        record: kube.get_optional(&record::target().path())?.map(trimmed),
        ..ClusterFacts::default()
    };
    // A decision that needs one that cannot be read refuses.
    let known = Record::read(facts.record.as_ref()).ok().flatten();
    let every = kube.list("/apis/apps/v1/daemonsets", &[])?;
    facts.daemon_sets = every.into_iter().filter(|d| is_agent(d, request)).map(trimmed).collect();
    facts.pods = pods(kube, &facts.daemon_sets)?;
    if scope >= Scope::ControlPlane {
        facts.etcd_problem = etcd_problem(kube);
    }
    if scope >= Scope::Addresses {
        facts.config_maps = config_maps(kube, &facts.daemon_sets, known.as_ref())?;
        facts.services = services(kube)?;
        calico(kube, &mut facts)?;
        policies(kube, &mut facts)?;
        facts.webhooks = webhooks(kube)?;
    }
    if scope >= Scope::FlannelRest {
        facts.flannel_rest = flannel_rest(kube, &facts, known.as_ref())?;
    }
    Ok(facts)
}

/// The object without what no decision rests on.
fn trimmed(mut object: Value) -> Value {
    unset(&mut object, &["metadata", "managedFields"]);
    object
}

/// A Node without most of its status: that of a node with many images is as long as the rest of the cluster.
fn trimmed_node(node: Value) -> Value {
    let conditions = items(&node, "/status/conditions").iter();
    let conditions: Vec<Value> = conditions
        .filter(|c| matches!(text(c, "/type"), Some("NetworkUnavailable" | "Ready")))
        .map(|c| json!({"type": c.get("type"), "status": c.get("status"), "reason": c.get("reason")}))
        .collect();
    let addresses = items(&node, "/status/addresses").iter().filter(|a| text(a, "/type") == Some("InternalIP"));
    let addresses: Vec<Value> = addresses.cloned().collect();
    let mut node = trimmed(node);
    set(&mut node, &["status"], json!({"conditions": conditions, "addresses": addresses}));
    node
}

fn is_agent(daemon_set: &Value, request: &Request) -> bool {
    let named = [&request.flannel_daemonset, &request.calico_daemonset].into_iter().flatten();
    let is_named = named.into_iter().any(|n| n.namespace == namespace(daemon_set) && n.name == name(daemon_set));
    is_named || ds::flannel_container(daemon_set).is_some() || ds::calico_container(daemon_set).is_some()
}

fn pods(kube: &Kube, daemon_sets: &[Value]) -> Result<Vec<AgentPod>> {
    let namespaces: BTreeSet<&str> = daemon_sets.iter().map(namespace).collect();
    let mut found = Vec::new();
    for wanted in namespaces {
        let names: Vec<&str> = daemon_sets.iter().filter(|d| namespace(d) == wanted).map(name).collect();
        let pods = kube.list(&format!("/api/v1/namespaces/{wanted}/pods"), &[])?;
        found.extend(pods.iter().filter_map(agent_pod).filter(|p| names.contains(&p.daemon_set.as_str())));
    }
    Ok(found)
}

fn agent_pod(pod: &Value) -> Option<AgentPod> {
    let owners = items(pod, "/metadata/ownerReferences");
    let owner = owners.iter().find(|o| text(o, "/kind") == Some("DaemonSet"))?;
    Some(AgentPod {
        name: name(pod).to_owned(),
        namespace: namespace(pod).to_owned(),
        daemon_set: text(owner, "/name")?.to_owned(),
        // A pod that is not bound to a node yet is on none.
        node: text(pod, "/spec/nodeName")?.to_owned(),
        ready: is_ready(pod),
        terminating: is_going(pod),
        node_selector: text_map(pod, "/spec/nodeSelector"),
        leaves_vxlan_alone: pod.pointer("/spec").is_some_and(ds::leaves_vxlan_alone),
    })
}

fn config_maps(kube: &Kube, daemon_sets: &[Value], known: Option<&Record>) -> Result<Vec<Value>> {
    let mut wanted: BTreeSet<(String, String)> = BTreeSet::new();
    for daemon_set in daemon_sets {
        let names = ds::config_map_names(daemon_set).into_iter();
        wanted.extend(names.map(|n| (namespace(daemon_set).to_owned(), n)));
    }
    if let Some(record) = known {
        let flannel = &record.flannel;
        wanted.extend(flannel.config_map.iter().map(|n| (flannel.namespace.clone(), n.clone())));
        let changed = record.before.iter().map(|r| &r.object).filter(|o| o.kind == Kind::ConfigMap);
        wanted.extend(changed.map(|o| (o.namespace.clone(), o.name.clone())));
    }
    let mut found = Vec::new();
    for (namespace, name) in wanted {
        found.extend(kube.get_optional(&format!("{}/{name}", Kind::ConfigMap.collection(&namespace)))?.map(trimmed));
    }
    Ok(found)
}

fn services(kube: &Kube) -> Result<Vec<Value>> {
    let mut found: Vec<Value> = Vec::new();
    found.extend(kube.get_optional("/api/v1/namespaces/default/services/kubernetes")?);
    found.extend(kube.list("/api/v1/namespaces/kube-system/services", &[("labelSelector", "k8s-app=kube-dns")])?);
    Ok(found.into_iter().map(trimmed).collect())
}

fn calico(kube: &Kube, facts: &mut ClusterFacts) -> Result<()> {
    let missing = &mut facts.missing_resources;
    let mut read = |plural: &str, into: &mut Vec<Value>| -> Result<()> {
        match kube.list(&format!("/apis/{CALICO_API}/{plural}"), &[]) {
            Ok(found) => *into = found.into_iter().map(trimmed).collect(),
            Err(error) if error.is_not_found() => missing.push(plural.to_owned()),
            Err(error) => return Err(error).with_context(|| format!("could not read Calico's {plural}")),
        }
        Ok(())
    };
    read("felixconfigurations", &mut facts.felix_configurations)?;
    read("ippools", &mut facts.ip_pools)?;
    read("ipamconfigs", &mut facts.ipam_configs)?;
    read("ipamblocks", &mut facts.ipam_blocks)?;
    read("blockaffinities", &mut facts.block_affinities)?;
    read("ipamhandles", &mut facts.ipam_handles)?;
    read("clusterinformations", &mut facts.cluster_informations)?;
    if !facts.missing_resources.is_empty() {
        facts.calico_v3_resources = kube.get_optional("/apis/projectcalico.org/v3/ippools?limit=1")?.is_some();
    }
    Ok(())
}

fn policies(kube: &Kube, facts: &mut ClusterFacts) -> Result<()> {
    let policies = kube.list("/apis/networking.k8s.io/v1/networkpolicies", &[])?;
    facts.network_policies = policies.into_iter().map(trimmed).collect();
    for (kind, plural) in
        [("GlobalNetworkPolicy", "globalnetworkpolicies"), ("Calico NetworkPolicy", "networkpolicies")]
    {
        let found = match kube.list(&format!("/apis/{CALICO_API}/{plural}"), &[]) {
            Ok(found) => found,
            // An install without policies of its own may lack the resource.
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error).with_context(|| format!("could not read Calico's {plural}")),
        };
        facts.calico_policies.extend(found.iter().map(|policy| calico_policy(kind, policy)));
    }
    let kubernetes = facts.network_policies.iter().map(namespace);
    let wanted: BTreeSet<&str> = kubernetes.chain(facts.calico_policies.iter().map(|p| p.namespace.as_str())).collect();
    // A policy of the whole cluster is for pods of every namespace.
    let places: Vec<String> = match wanted.contains("") {
        true => vec!["/api/v1/pods".to_owned()],
        false => wanted.into_iter().map(|place| format!("/api/v1/namespaces/{place}/pods")).collect(),
    };
    for place in places {
        let pods = kube.list(&place, &[])?;
        // Policies do not reach pods in the host's network.
        let pods = pods.iter().filter(|p| p.pointer("/spec/hostNetwork") != Some(&Value::Bool(true)));
        let policed =
            pods.map(|p| PolicedPod { namespace: namespace(p).to_owned(), labels: text_map(p, "/metadata/labels") });
        facts.policed_pods.extend(policed);
    }
    Ok(())
}

fn calico_policy(kind: &str, policy: &Value) -> CalicoPolicy {
    CalicoPolicy {
        kind: kind.to_owned(),
        namespace: namespace(policy).to_owned(),
        name: name(policy).to_owned(),
        selector: text(policy, "/spec/selector").unwrap_or_default().to_owned(),
        by_namespace: text(policy, "/spec/namespaceSelector").is_some_and(|s| !s.is_empty()),
    }
}

/// IPv6 addresses of pods in the pod network; none where flannel carries no IPv6. Reads all pods of the cluster.
pub fn pod_addresses6(kube: &Kube, facts: &ClusterFacts, request: &Request) -> Result<BTreeSet<Ipv6Addr>> {
    let flannel = flannel::detect(facts, request, &mut Vec::new());
    if flannel.is_none_or(|flannel| flannel.network6.is_none()) {
        return Ok(BTreeSet::new());
    }
    let pods = kube.list("/api/v1/pods", &[])?;
    let inside = pods.iter().filter(|p| p.pointer("/spec/hostNetwork") != Some(&Value::Bool(true)));
    let addresses = inside.flat_map(|pod| items(pod, "/status/podIPs"));
    Ok(addresses.filter_map(|ip| text(ip, "/ip")?.parse().ok()).collect())
}

/// What the server says of its etcd, where it says that anything is wrong. Servers before 1.16 do not tell.
fn etcd_problem(kube: &Kube) -> Option<String> {
    let error = kube.get("/readyz/etcd").err()?;
    (!error.is_not_found() && !error.is_forbidden()).then_some(error.message)
}

/// Webhooks in the pod network that may not fail, with the nodes that their ready pods are on.
fn webhooks(kube: &Kube) -> Result<Vec<Webhook>> {
    let mut found = Vec::new();
    for kind in ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"] {
        let path = format!("/apis/admissionregistration.k8s.io/v1/{}s", kind.to_ascii_lowercase());
        let configurations = match kube.list(&path, &[]) {
            Ok(found) => found,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error).with_context(|| format!("could not read the {kind}s")),
        };
        for configuration in &configurations {
            let hooks = items(configuration, "/webhooks").iter();
            let strict = hooks.filter(|w| text(w, "/failurePolicy") != Some("Ignore"));
            let services: BTreeSet<(&str, &str)> = strict
                .filter_map(|w| w.pointer("/clientConfig/service"))
                .filter_map(|s| Some((text(s, "/namespace")?, text(s, "/name")?)))
                .collect();
            for (place, service) in services {
                if let Some(nodes) = nodes_behind(kube, place, service)? {
                    let configuration = format!("{kind} {}", name(configuration));
                    found.push(Webhook { configuration, service: format!("{place}/{service}"), nodes });
                }
            }
        }
    }
    Ok(found)
}

/// Nodes of the ready pods behind a Service; `None` where it has no pods of its own, or some in the host's network, which a
/// switch does not touch.
fn nodes_behind(kube: &Kube, place: &str, service: &str) -> Result<Option<Vec<String>>> {
    let path = format!("/api/v1/namespaces/{place}/services/{service}");
    let Some(service) = kube.get_optional(&path)? else { return Ok(Some(Vec::new())) };
    let selector: Vec<String> =
        text_map(&service, "/spec/selector").into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    if selector.is_empty() {
        return Ok(None);
    }
    let query = [("labelSelector", selector.join(","))];
    let query = query.each_ref().map(|(name, value)| (*name, value.as_str()));
    let pods = kube.list(&format!("/api/v1/namespaces/{place}/pods"), &query)?;
    let ready: Vec<&Value> = pods.iter().filter(|p| is_ready(p) && !is_going(p)).collect();
    if ready.iter().any(|p| p.pointer("/spec/hostNetwork") == Some(&Value::Bool(true))) {
        return Ok(None);
    }
    let nodes: BTreeSet<&str> = ready.iter().filter_map(|p| text(p, "/spec/nodeName")).collect();
    Ok(Some(nodes.into_iter().map(str::to_owned).collect()))
}

/// Namespaces that are never flannel's alone.
const SHARED_NAMESPACES: [&str; 4] = ["kube-system", "default", "kube-public", "kube-node-lease"];

fn flannel_rest(kube: &Kube, facts: &ClusterFacts, known: Option<&Record>) -> Result<FlannelRest> {
    let of_flannel = || facts.daemon_sets.iter().filter(|d| ds::flannel_container(d).is_some());
    let daemon_set = of_flannel().next();
    let recorded = known.map(|r| &r.flannel);
    let mut daemon_sets: Vec<String> = recorded.map(|f| f.daemon_sets.clone()).unwrap_or_default();
    daemon_sets.extend(of_flannel().map(|d| name(d).to_owned()));
    let place = daemon_set.map(|d| namespace(d).to_owned()).or_else(|| recorded.map(|f| f.namespace.clone()));
    let account = daemon_set.and_then(|d| ds::service_account(d).map(str::to_owned));
    let account = account.or_else(|| recorded?.service_account.clone());
    let Some(place) = place else { return Ok(FlannelRest::default()) };
    let mut rest = FlannelRest::default();
    if let Some(account) = account.filter(|a| a != "default") {
        let path = format!("{}/{account}", Kind::ServiceAccount.collection(&place));
        rest.service_accounts.extend(kube.get_optional(&path)?.map(trimmed));
        permissions(kube, &place, &account, &mut rest)?;
    }
    if !SHARED_NAMESPACES.contains(&place.as_str()) {
        rest.namespace = kube.get_optional(&format!("{}/{place}", Kind::Namespace.collection("")))?.map(trimmed);
        if rest.namespace.is_some() {
            rest.inhabitants = inhabitants::inhabitants(kube, &place, &daemon_sets)?;
        }
    }
    Ok(rest)
}

/// The bindings of a ServiceAccount, and the roles that nobody else is bound to. Roles that came with Kubernetes stay.
fn permissions(kube: &Kube, place: &str, account: &str, rest: &mut FlannelRest) -> Result<()> {
    let bindings = kube.list(&Kind::ClusterRoleBinding.collection(""), &[])?;
    let is_ours = |binding: &Value| {
        let subjects = items(binding, "/subjects");
        let is_account = |s: &Value| text(s, "/name") == Some(account) && text(s, "/namespace") == Some(place);
        !subjects.is_empty() && subjects.iter().all(is_account)
    };
    let (ours, others): (Vec<Value>, Vec<Value>) = bindings.into_iter().partition(is_ours);
    let roles: BTreeSet<&str> = ours.iter().filter_map(|b| text(b, "/roleRef/name")).collect();
    for role in roles {
        let shared = others.iter().any(|b| text(b, "/roleRef/name") == Some(role));
        if shared || role.starts_with("system:") || ["cluster-admin", "admin", "edit", "view"].contains(&role) {
            continue;
        }
        let path = format!("{}/{role}", Kind::ClusterRole.collection(""));
        rest.cluster_roles.extend(kube.get_optional(&path)?.map(trimmed));
    }
    rest.cluster_role_bindings = ours.into_iter().map(trimmed).collect();
    Ok(())
}
