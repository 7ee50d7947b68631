//! Canal, as Calico's manifest `canal.yaml` installs it: flanneld and a calico-node that does policy alone, in one pod. Its programs
//! have the accounts that the lab keeps for flanneld and calico-node.

use serde_json::{Value, json};

use super::calico::{Calico, cluster_information};
use super::{Manifest, calico_crds, calico_roles, flannel, from_field, host_path, namespace, service_account};

/// What the manifest leaves to choose.
#[derive(Debug, Clone)]
pub struct Canal {
    /// The pod network of the whole cluster.
    pub network: String,
    /// Calico's release, without the v.
    pub version: String,
    /// Image of flanneld.
    pub flanneld: String,
    /// More environment for calico-node.
    pub env: Vec<(String, String)>,
}

impl Default for Canal {
    fn default() -> Self {
        Self {
            network: "10.244.0.0/16".into(),
            version: "3.31.0".into(),
            flanneld: "lab/flanneld:v0.24.4".into(),
            env: Vec::new(),
        }
    }
}

/// Name of its conflist's file.
pub const CONFLIST_NAME: &str = "10-canal.conflist";

/// The template that install-cni fills in: Calico's plugin with host-local's addresses, under the name that Calico's own list has.
pub const CONFLIST: &str = r#"{
  "name": "k8s-pod-network",
  "cniVersion": "1.0.0",
  "plugins": [
    {
      "type": "calico",
      "log_level": "info",
      "log_file_path": "/var/log/calico/cni/cni.log",
      "datastore_type": "kubernetes",
      "nodename": "__KUBERNETES_NODE_NAME__",
      "mtu": __CNI_MTU__,
      "ipam": {
          "type": "host-local",
          "subnet": "usePodCidr"
      },
      "policy": {
          "type": "k8s"
      },
      "kubernetes": {
          "kubeconfig": "__KUBECONFIG_FILEPATH__"
      }
    },
    {
      "type": "portmap",
      "snat": true,
      "capabilities": {"portMappings": true}
    },
    {
      "type": "bandwidth",
      "capabilities": {"bandwidth": true}
    }
  ]
}
"#;

/// Calico's definitions, accounts, roles, configuration and DaemonSet.
pub fn manifests(canal: &Canal) -> Vec<Manifest> {
    let mut all = calico_crds::manifests();
    all.extend([
        namespace("kube-flannel"),
        service_account("kube-flannel", "flannel"),
        service_account("kube-system", "canal"),
        service_account("kube-system", "calico-node"),
        service_account("kube-system", "calico-cni-plugin"),
        service_account("kube-system", "calico-kube-controllers"),
        cluster_information(&Calico { version: canal.version.clone(), ..Calico::default() }),
        Manifest::new("/api/v1/namespaces/kube-system/configmaps", config_map(canal)),
    ]);
    all.extend(flannel::roles());
    all.extend(calico_roles::manifests());
    all.push(Manifest::new("/apis/apps/v1/namespaces/kube-system/daemonsets", daemon_set(canal)));
    all
}

/// canal-config.
pub fn config_map(canal: &Canal) -> Value {
    let network = json!({"Network": canal.network, "Backend": {"Type": "vxlan"}});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "canal-config", "namespace": "kube-system"},
        "data": {"typha_service_name": "none", "canal_iface": "", "masquerade": "true", "veth_mtu": "1450",
            "cni_network_config": CONFLIST, "net-conf.json": serde_json::to_string_pretty(&network).unwrap_or_default()}})
}

/// The DaemonSet `canal`: it goes to every node, tolerates everything, and has neither grace nor a hook before it ends.
pub fn daemon_set(canal: &Canal) -> Value {
    let labels = json!({"k8s-app": "canal"});
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "canal", "namespace": "kube-system", "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "template": {"metadata": {"labels": labels}, "spec": {
                "nodeSelector": {"kubernetes.io/os": "linux"},
                "hostNetwork": true,
                "tolerations": [{"effect": "NoSchedule", "operator": "Exists"}, {"key": "CriticalAddonsOnly", "operator": "Exists"},
                    {"effect": "NoExecute", "operator": "Exists"}],
                "serviceAccountName": "canal",
                "terminationGracePeriodSeconds": 0,
                "priorityClassName": "system-node-critical",
                "initContainers": [install_cni(canal)],
                "containers": [calico_node(canal), kube_flannel(canal)],
                "volumes": [
                    host_path("var-run-calico", "/var/run/calico"), host_path("var-lib-calico", "/var/lib/calico"),
                    host_path("cni-bin-dir", "/opt/cni/bin"), host_path("cni-net-dir", "/etc/cni/net.d"),
                    host_path("cni-log-dir", "/var/log/calico/cni"),
                    {"name": "flannel-cfg", "configMap": {"name": "canal-config"}},
                    {"name": "xtables-lock", "hostPath": {"path": "/run/xtables.lock", "type": "FileOrCreate"}}]}}}})
}

fn install_cni(canal: &Canal) -> Value {
    let from_map = |name: &str, key: &str| json!({"name": name, "valueFrom": {"configMapKeyRef": {"name": "canal-config", "key": key}}});
    json!({"name": "install-cni", "image": format!("lab/install-cni:v{}", canal.version),
        "env": [
            from_field("KUBERNETES_NODE_NAME", "spec.nodeName"),
            from_field("POD_NAMESPACE", "metadata.namespace"),
            {"name": "CNI_CONF_NAME", "value": CONFLIST_NAME},
            from_map("CNI_NETWORK_CONFIG", "cni_network_config"),
            from_map("CNI_MTU", "veth_mtu"),
            {"name": "SLEEP", "value": "false"}],
        "volumeMounts": [{"name": "cni-bin-dir", "mountPath": "/opt/cni/bin"}, {"name": "cni-net-dir", "mountPath": "/etc/cni/net.d"}],
        "securityContext": {"privileged": true}})
}

fn calico_node(canal: &Canal) -> Value {
    let settings = [
        ("DATASTORE_TYPE", "kubernetes"),
        ("USE_POD_CIDR", "true"),
        ("WAIT_FOR_DATASTORE", "true"),
        ("CALICO_NETWORKING_BACKEND", "none"),
        ("CLUSTER_TYPE", "k8s,canal"),
        ("IP", ""),
        // In a cluster made by kubeadm, calico-node finds it by itself.
        ("CALICO_IPV4POOL_CIDR", &canal.network),
        ("CALICO_DISABLE_FILE_LOGGING", "true"),
        ("FELIX_DEFAULTENDPOINTTOHOSTACTION", "ACCEPT"),
        ("FELIX_IPV6SUPPORT", "false"),
        ("FELIX_HEALTHENABLED", "true"),
        ("CALICO_VERSION", &format!("v{}", canal.version)),
        ("FELIX_LIKE", &canal.version),
    ];
    let mut env = vec![from_field("NODENAME", "spec.nodeName"), from_field("POD_NAMESPACE", "metadata.namespace")];
    env.extend(settings.iter().map(|(name, value)| json!({"name": name, "value": value})));
    env.extend(canal.env.iter().map(|(name, value)| json!({"name": name, "value": value})));
    json!({"name": "calico-node", "image": format!("lab/calico-node:v{}", canal.version), "env": env,
        "readinessProbe": {"exec": {"command": ["/bin/calico-node", "-felix-ready"]}, "periodSeconds": 10},
        "securityContext": {"privileged": true},
        "volumeMounts": [{"name": "var-run-calico", "mountPath": "/var/run/calico"}, {"name": "var-lib-calico", "mountPath": "/var/lib/calico"},
            {"name": "cni-net-dir", "mountPath": "/etc/cni/net.d"}, {"name": "cni-log-dir", "mountPath": "/var/log/calico/cni"}]})
}

/// flanneld sees a /run/flannel of its own: the node has no subnet.env. The lab's containers share the node's folders, so it is told
/// to write elsewhere.
fn kube_flannel(canal: &Canal) -> Value {
    json!({"name": "kube-flannel", "image": canal.flanneld,
        "command": ["/opt/bin/flanneld", "--ip-masq", "--kube-subnet-mgr", "--subnet-file=/run/canal-pod/subnet.env"],
        "env": [
            from_field("POD_NAME", "metadata.name"),
            from_field("POD_NAMESPACE", "metadata.namespace"),
            from_field("NODE_NAME", "spec.nodeName"),
            {"name": "FLANNELD_IP_MASQ", "valueFrom": {"configMapKeyRef": {"name": "canal-config", "key": "masquerade"}}},
            {"name": "FLANNELD_VERSION_LIKE", "value": "0.24"}],
        "securityContext": {"privileged": true},
        "volumeMounts": [{"name": "flannel-cfg", "mountPath": "/etc/kube-flannel/"}, {"name": "xtables-lock", "mountPath": "/run/xtables.lock"}]})
}
