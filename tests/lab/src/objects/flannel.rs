//! flannel, as its manifest of v0.26 installs it, with the lab's images.

use serde_json::{Value, json};

use super::{Manifest, from_field, host_path, namespace, service_account};

/// What the manifest leaves to choose.
#[derive(Debug, Clone)]
pub struct Flannel {
    /// The pod network of the whole cluster.
    pub network: String,
    /// The IPv6 pod network of a dual-stack cluster.
    pub network_v6: Option<String>,
    /// VXLAN network identifier.
    pub vni: u32,
    /// UDP port; left out of net-conf.json when `None`: the kernel's 8472.
    pub port: Option<u16>,
    /// Image of flanneld.
    pub image: String,
    /// More environment for flanneld: FLANNELD_VERSION_LIKE and the like.
    pub env: Vec<(String, String)>,
}

impl Default for Flannel {
    fn default() -> Self {
        Self {
            network: "10.244.0.0/16".into(),
            network_v6: None,
            vni: 1,
            port: None,
            image: "lab/flanneld:v0.26.7".into(),
            env: vec![("FLANNELD_VERSION_LIKE".into(), "0.26".into())],
        }
    }
}

/// Namespace, ServiceAccount, roles, configuration and DaemonSet.
pub fn manifests(flannel: &Flannel) -> Vec<Manifest> {
    let mut space = namespace("kube-flannel");
    space.object["metadata"]["labels"] =
        json!({"k8s-app": "flannel", "pod-security.kubernetes.io/enforce": "privileged"});
    let mut all = vec![space, service_account("kube-flannel", "flannel")];
    all.extend(roles());
    all.push(Manifest::new("/api/v1/namespaces/kube-flannel/configmaps", config_map(flannel)));
    all.push(Manifest::new("/apis/apps/v1/namespaces/kube-flannel/daemonsets", daemon_set(flannel)));
    all
}

/// What flanneld may do.
pub fn roles() -> [Manifest; 2] {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let meta = json!({"name": "flannel", "labels": {"k8s-app": "flannel"}});
    let role = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole", "metadata": meta, "rules": [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]}]});
    let binding = json!({"apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRoleBinding", "metadata": meta,
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": "flannel"},
        "subjects": [{"kind": "ServiceAccount", "name": "flannel", "namespace": "kube-flannel"}]});
    [
        Manifest::new(format!("/apis/{GROUP}/v1/clusterroles"), role),
        Manifest::new(format!("/apis/{GROUP}/v1/clusterrolebindings"), binding),
    ]
}

/// kube-flannel-cfg.
pub fn config_map(flannel: &Flannel) -> Value {
    let mut backend = json!({"Type": "vxlan"});
    if flannel.vni != 1 {
        backend["VNI"] = json!(flannel.vni);
    }
    if let Some(port) = flannel.port {
        backend["Port"] = json!(port);
    }
    let mut network = json!({"Network": flannel.network, "EnableNFTables": false, "Backend": backend});
    if let Some(second) = &flannel.network_v6 {
        network["EnableIPv6"] = json!(true);
        network["IPv6Network"] = json!(second);
    }
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "kube-flannel-cfg", "namespace": "kube-flannel",
            "labels": {"tier": "node", "k8s-app": "flannel", "app": "flannel"}},
        "data": {"cni-conf.json": pretty(&conflist()), "net-conf.json": pretty(&network)}})
}

/// The conflist that its init container installs.
pub fn conflist() -> Value {
    json!({"name": "cbr0", "cniVersion": "0.3.1", "plugins": [
        {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
        {"type": "portmap", "capabilities": {"portMappings": true}}]})
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// kube-flannel-ds. It runs on every Linux node; whoever migrates adds a selector of their own.
pub fn daemon_set(flannel: &Flannel) -> Value {
    let mut env = vec![
        from_field("POD_NAME", "metadata.name"),
        from_field("POD_NAMESPACE", "metadata.namespace"),
        from_field("NODE_NAME", "spec.nodeName"),
        json!({"name": "EVENT_QUEUE_DEPTH", "value": "5000"}),
    ];
    env.extend(flannel.env.iter().map(|(name, value)| json!({"name": name, "value": value})));
    let labels = json!({"app": "flannel", "k8s-app": "flannel", "tier": "node"});
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "kube-flannel-ds", "namespace": "kube-flannel", "labels": labels},
        "spec": {
            "selector": {"matchLabels": {"app": "flannel", "k8s-app": "flannel"}},
            "template": {"metadata": {"labels": labels}, "spec": {
                "nodeSelector": {"kubernetes.io/os": "linux"},
                "hostNetwork": true,
                "priorityClassName": "system-node-critical",
                "tolerations": [{"operator": "Exists", "effect": "NoSchedule"}],
                "serviceAccountName": "flannel",
                "initContainers": [{
                    "name": "install-flannel", "image": "lab/install-flannel",
                    "volumeMounts": [{"name": "cni-plugin", "mountPath": "/opt/cni/bin"},
                        {"name": "cni", "mountPath": "/etc/cni/net.d"}, {"name": "flannel-cfg", "mountPath": "/etc/kube-flannel/"}]}],
                "containers": [{
                    "name": "kube-flannel", "image": flannel.image,
                    "args": ["--ip-masq", "--kube-subnet-mgr"],
                    "env": env,
                    "securityContext": {"privileged": false, "capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}},
                    "volumeMounts": [{"name": "run", "mountPath": "/run/flannel"},
                        {"name": "flannel-cfg", "mountPath": "/etc/kube-flannel/"}, {"name": "xtables-lock", "mountPath": "/run/xtables.lock"}]}],
                "volumes": [host_path("run", "/run/flannel"), host_path("cni-plugin", "/opt/cni/bin"), host_path("cni", "/etc/cni/net.d"),
                    {"name": "flannel-cfg", "configMap": {"name": "kube-flannel-cfg"}},
                    {"name": "xtables-lock", "hostPath": {"path": "/run/xtables.lock", "type": "FileOrCreate"}}]}}}})
}
