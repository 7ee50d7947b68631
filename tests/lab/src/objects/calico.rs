//! Calico, as its manifest installs it, made safe for a cluster that still runs flannel: it goes only where it is asked to.

use serde_json::{Value, json};

use super::{Manifest, from_field, host_path, service_account};
use crate::cluster::Options;

/// What the manifest leaves to choose.
#[derive(Debug, Clone)]
pub struct Calico {
    /// The pod network of the whole cluster.
    pub network: String,
    /// The IPv6 pod network of a dual-stack cluster.
    pub network_v6: Option<String>,
    /// Release, without the v.
    pub version: String,
    /// MTU of pods; 0: found out.
    pub mtu: u32,
    /// More environment for calico-node: LAB_RESYNC_MS and the like.
    pub env: Vec<(String, String)>,
}

impl Default for Calico {
    fn default() -> Self {
        Self { network: "10.244.0.0/16".into(), network_v6: None, version: "3.31.0".into(), mtu: 1450, env: Vec::new() }
    }
}

impl Calico {
    /// With the pod networks of a cluster, one or both.
    pub fn of(options: &Options) -> Self {
        Self { network: options.cluster_cidr.clone(), network_v6: options.cluster_cidr_v6.clone(), ..Self::default() }
    }
}

/// Where Calico's resources are.
pub const GROUP: &str = "/apis/crd.projectcalico.org/v1";

/// ServiceAccounts, configuration and DaemonSet; the definitions stand in [`super::calico_crds`].
pub fn manifests(calico: &Calico) -> Vec<Manifest> {
    let mut all = vec![
        service_account("kube-system", "calico-node"),
        service_account("kube-system", "calico-cni-plugin"),
        service_account("kube-system", "calico-kube-controllers"),
        Manifest::new("/api/v1/namespaces/kube-system/configmaps", config_map(calico)),
        cluster_information(calico),
    ];
    all.extend(super::calico_roles::manifests());
    all.push(Manifest::new("/apis/apps/v1/namespaces/kube-system/daemonsets", daemon_set(calico)));
    all
}

/// The CNI plugin reads datastoreReady without asking whether it is there.
pub fn cluster_information(calico: &Calico) -> Manifest {
    Manifest::new(
        format!("{GROUP}/clusterinformations"),
        json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "ClusterInformation", "metadata": {"name": "default"},
            "spec": {"clusterGUID": "1ab1ab1ab1ab1ab1ab1ab1ab1ab1ab1a", "clusterType": "k8s,kdd",
                "calicoVersion": format!("v{}", calico.version), "datastoreReady": true}}),
    )
}

fn config_map(calico: &Calico) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "calico-config", "namespace": "kube-system"},
        "data": {"calico_backend": "vxlan", "typha_service_name": "none", "veth_mtu": calico.mtu.to_string(),
            "cni_network_config": conflist(calico)}})
}

/// The template; in dual stack its IPAM is asked for both families.
fn conflist(calico: &Calico) -> String {
    match calico.network_v6 {
        None => CONFLIST.to_owned(),
        Some(_) => CONFLIST.replace(
            r#""type": "calico-ipam""#,
            "\"type\": \"calico-ipam\",\n          \"assign_ipv4\": \"true\",\n          \"assign_ipv6\": \"true\"",
        ),
    }
}

/// The template that install-cni fills in.
pub const CONFLIST: &str = r#"{
  "name": "k8s-pod-network",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "calico",
      "log_level": "info",
      "log_file_path": "/var/log/calico/cni/cni.log",
      "datastore_type": "kubernetes",
      "nodename": "__KUBERNETES_NODE_NAME__",
      "mtu": __CNI_MTU__,
      "ipam": {
          "type": "calico-ipam"
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

/// calico-node, on nodes with our label only, without upgrade-ipam, its address pinned to the node's own.
pub fn daemon_set(calico: &Calico) -> Value {
    let labels = json!({"k8s-app": "calico-node"});
    let volumes = [
        host_path("var-run-calico", "/var/run/calico"),
        host_path("var-lib-calico", "/var/lib/calico"),
        host_path("cni-bin-dir", "/opt/cni/bin"),
        host_path("cni-net-dir", "/etc/cni/net.d"),
        host_path("cni-log-dir", "/var/log/calico/cni"),
    ];
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "calico-node", "namespace": "kube-system", "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "template": {"metadata": {"labels": labels}, "spec": {
                "nodeSelector": {"kubernetes.io/os": "linux", "nodectl.io/cni": "calico"},
                "hostNetwork": true,
                "tolerations": [{"effect": "NoSchedule", "operator": "Exists"}, {"key": "CriticalAddonsOnly", "operator": "Exists"},
                    {"effect": "NoExecute", "operator": "Exists"}],
                "serviceAccountName": "calico-node",
                "terminationGracePeriodSeconds": 0,
                "priorityClassName": "system-node-critical",
                "initContainers": [install_cni(calico)],
                "containers": [calico_node(calico)],
                "volumes": volumes}}}})
}

fn install_cni(calico: &Calico) -> Value {
    json!({"name": "install-cni", "image": format!("lab/install-cni:v{}", calico.version),
        "env": [
            from_field("KUBERNETES_NODE_NAME", "spec.nodeName"),
            from_field("NODENAME", "spec.nodeName"),
            from_field("POD_NAMESPACE", "metadata.namespace"),
            {"name": "CNI_CONF_NAME", "value": "10-calico.conflist"},
            {"name": "CNI_NETWORK_CONFIG", "valueFrom": {"configMapKeyRef": {"name": "calico-config", "key": "cni_network_config"}}},
            {"name": "CNI_MTU", "value": calico.mtu.to_string()},
            {"name": "SLEEP", "value": "false"}],
        "volumeMounts": [{"name": "cni-bin-dir", "mountPath": "/opt/cni/bin"}, {"name": "cni-net-dir", "mountPath": "/etc/cni/net.d"}],
        "securityContext": {"privileged": true}})
}

fn calico_node(calico: &Calico) -> Value {
    let settings = [
        ("DATASTORE_TYPE", "kubernetes"),
        ("WAIT_FOR_DATASTORE", "true"),
        ("CALICO_NETWORKING_BACKEND", "vxlan"),
        ("CLUSTER_TYPE", "k8s"),
        ("IP", "autodetect"),
        ("IP_AUTODETECTION_METHOD", "kubernetes-internal-ip"),
        ("CALICO_IPV4POOL_IPIP", "Never"),
        ("CALICO_IPV4POOL_VXLAN", "Always"),
        ("CALICO_IPV4POOL_CIDR", &calico.network),
        ("CALICO_DISABLE_FILE_LOGGING", "true"),
        ("FELIX_DEFAULTENDPOINTTOHOSTACTION", "ACCEPT"),
        ("FELIX_IPV6SUPPORT", if calico.network_v6.is_some() { "true" } else { "false" }),
        ("FELIX_HEALTHENABLED", "true"),
        ("CALICO_VERSION", &format!("v{}", calico.version)),
        ("FELIX_LIKE", &calico.version),
    ];
    let mut env = vec![from_field("NODENAME", "spec.nodeName"), from_field("POD_NAMESPACE", "metadata.namespace")];
    env.extend(settings.iter().map(|(name, value)| json!({"name": name, "value": value})));
    if let Some(second) = &calico.network_v6 {
        let settings = [
            ("IP6", "autodetect"),
            ("IP6_AUTODETECTION_METHOD", "kubernetes-internal-ip"),
            ("CALICO_IPV6POOL_CIDR", second.as_str()),
            ("CALICO_IPV6POOL_VXLAN", "Always"),
            ("CALICO_IPV6POOL_NAT_OUTGOING", "true"),
        ];
        env.extend(settings.iter().map(|(name, value)| json!({"name": name, "value": value})));
    }
    env.extend(calico.env.iter().map(|(name, value)| json!({"name": name, "value": value})));
    json!({"name": "calico-node", "image": format!("lab/calico-node:v{}", calico.version), "env": env,
        "lifecycle": {"preStop": {"exec": {"command": ["/bin/calico-node", "-shutdown"]}}},
        "readinessProbe": {"exec": {"command": ["/bin/calico-node", "-felix-ready"]}, "periodSeconds": 10},
        "securityContext": {"privileged": true},
        "volumeMounts": [{"name": "var-run-calico", "mountPath": "/var/run/calico"}, {"name": "var-lib-calico", "mountPath": "/var/lib/calico"},
            {"name": "cni-net-dir", "mountPath": "/etc/cni/net.d"}, {"name": "cni-log-dir", "mountPath": "/var/log/calico/cni"}]})
}
