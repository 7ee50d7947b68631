//! Which resources exist: the built-in ones by table, the others by the CustomResourceDefinitions in the store.

use serde_json::Value;

use super::options::Regime;
use super::store::Inner;

/// A resource that the server serves.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourceType {
    /// Empty for the core group.
    pub group: String,
    /// The version that is served.
    pub version: String,
    /// Plural.
    pub resource: String,
    /// Singular.
    pub singular: String,
    /// Kind.
    pub kind: String,
    /// Lives in a namespace.
    pub namespaced: bool,
    /// Has a status that only `/status` writes.
    pub status: bool,
    /// Defined by a CustomResourceDefinition.
    pub custom: bool,
    /// For kubectl.
    pub short_names: Vec<String>,
}

impl ResourceType {
    /// "pods", "daemonsets.apps": the first part of a key in the store.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.resource.clone() } else { format!("{}.{}", self.resource, self.group) }
    }

    /// "v1", "apps/v1".
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// group, version, plural, kind, letters (n: in a namespace, s: has a status), short names.
type Row = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

const TABLE: &[Row] = &[
    ("", "v1", "configmaps", "ConfigMap", "n", "cm"),
    ("", "v1", "endpoints", "Endpoints", "n", "ep"),
    ("", "v1", "events", "Event", "n", "ev"),
    ("", "v1", "namespaces", "Namespace", "s", "ns"),
    ("", "v1", "nodes", "Node", "s", "no"),
    ("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", "ns", "pvc"),
    ("", "v1", "persistentvolumes", "PersistentVolume", "s", "pv"),
    ("", "v1", "pods", "Pod", "ns", "po"),
    ("", "v1", "secrets", "Secret", "n", ""),
    ("", "v1", "serviceaccounts", "ServiceAccount", "n", "sa"),
    ("", "v1", "services", "Service", "ns", "svc"),
    ("admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", "", ""),
    ("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration", "", ""),
    ("apps", "v1", "controllerrevisions", "ControllerRevision", "n", ""),
    ("apps", "v1", "daemonsets", "DaemonSet", "ns", "ds"),
    ("apps", "v1", "deployments", "Deployment", "ns", "deploy"),
    ("apps", "v1", "replicasets", "ReplicaSet", "ns", "rs"),
    ("apps", "v1", "statefulsets", "StatefulSet", "ns", "sts"),
    ("batch", "v1", "jobs", "Job", "ns", ""),
    ("certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest", "s", "csr"),
    ("coordination.k8s.io", "v1", "leases", "Lease", "n", ""),
    ("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", "n", ""),
    ("events.k8s.io", "v1", "events", "Event", "n", "ev"),
    ("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", "n", "netpol"),
    ("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", "", ""),
    ("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", "ns", "pdb"),
    ("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", "", ""),
    ("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", "", ""),
    ("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", "n", ""),
    ("rbac.authorization.k8s.io", "v1", "roles", "Role", "n", ""),
    ("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", "", "pc"),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", "s", "crd"),
];

/// Every resource that is served now.
pub fn all(regime: Regime, store: &Inner) -> Vec<ResourceType> {
    let mut found: Vec<ResourceType> = TABLE.iter().map(|row| built_in(row, regime)).collect();
    for (_, definition) in store.list("customresourcedefinitions.apiextensions.k8s.io", None) {
        found.extend(custom(definition));
    }
    found
}

/// The resource under a group, version and plural name.
pub fn lookup(regime: Regime, store: &Inner, group: &str, version: &str, resource: &str) -> Option<ResourceType> {
    let row = TABLE.iter().find(|row| row.0 == group && row.2 == resource);
    if let Some(row) = row {
        return Some(built_in(row, regime)).filter(|found| found.version == version);
    }
    let definition =
        store.find("customresourcedefinitions.apiextensions.k8s.io", "", &format!("{resource}.{group}"))?;
    custom(&definition).into_iter().find(|found| found.version == version)
}

/// The resource that a stored key belongs to, whatever its version.
pub fn by_group_resource(regime: Regime, store: &Inner, group_resource: &str) -> Option<ResourceType> {
    let (resource, group) = group_resource.split_once('.').unwrap_or((group_resource, ""));
    all(regime, store).into_iter().find(|found| found.resource == resource && found.group == group)
}

fn built_in(row: &Row, regime: Regime) -> ResourceType {
    let (group, version, resource, kind, letters, short) = *row;
    // policy/v1 and discovery.k8s.io/v1 came with 1.21.
    let old = regime == Regime::V1_20 && matches!(group, "policy" | "discovery.k8s.io");
    ResourceType {
        group: group.into(),
        version: if old { "v1beta1" } else { version }.into(),
        resource: resource.into(),
        singular: kind.to_lowercase(),
        kind: kind.into(),
        namespaced: letters.contains('n'),
        status: letters.contains('s'),
        custom: false,
        short_names: short.split(' ').filter(|name| !name.is_empty()).map(str::to_string).collect(),
    }
}

fn custom(definition: &Value) -> Vec<ResourceType> {
    let spec = &definition["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let versions = spec["versions"].as_array().into_iter().flatten();
    versions
        .filter(|version| version["served"].as_bool().unwrap_or(true))
        .map(|version| ResourceType {
            group: text(&spec["group"]),
            version: text(&version["name"]),
            resource: text(&spec["names"]["plural"]),
            singular: text(&spec["names"]["singular"]),
            kind: text(&spec["names"]["kind"]),
            namespaced: spec["scope"] == "Namespaced",
            status: version["subresources"]["status"].is_object(),
            custom: true,
            short_names: Vec::new(),
        })
        .collect()
}
