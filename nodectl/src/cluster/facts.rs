//! What the cluster looks like: every object that a decision rests on, read once.
//!
//! Objects stand here as the server shows them, without what no decision rests on (managed fields, most of a Node's
//! status). What `--output json` prints is also a test's input.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterFacts {
    /// The user that the server sees.
    pub user: String,
    /// Calico's resources that the server does not know.
    pub missing_resources: Vec<String>,
    /// The server has Calico's resources in the group `projectcalico.org`, as newer installs may.
    pub calico_v3_resources: bool,
    /// Nodes.
    pub nodes: Vec<Value>,
    /// DaemonSets that run flannel or Calico, or that a flag names.
    pub daemon_sets: Vec<Value>,
    /// Pods of those DaemonSets.
    pub pods: Vec<AgentPod>,
    /// IPv6 addresses that pods have, where some node has an IPv6 pod CIDR.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub pod_addresses6: BTreeSet<Ipv6Addr>,
    /// ConfigMaps that those DaemonSets use.
    pub config_maps: Vec<Value>,
    /// ClusterIP Services that are probed.
    pub services: Vec<Value>,
    /// Calico's felix configurations.
    pub felix_configurations: Vec<Value>,
    /// Calico's address pools.
    pub ip_pools: Vec<Value>,
    /// Calico's IPAM configuration.
    pub ipam_configs: Vec<Value>,
    /// Calico's address blocks.
    pub ipam_blocks: Vec<Value>,
    /// Which node a block belongs to.
    pub block_affinities: Vec<Value>,
    /// Who holds addresses.
    pub ipam_handles: Vec<Value>,
    /// What Calico says of the cluster.
    pub cluster_informations: Vec<Value>,
    /// Kubernetes' NetworkPolicies.
    pub network_policies: Vec<Value>,
    /// Pods in namespaces that have some.
    pub policed_pods: Vec<PolicedPod>,
    /// Calico's own policies.
    pub calico_policies: Vec<CalicoPolicy>,
    /// What the API server finds wrong with its etcd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_problem: Option<String>,
    /// Admission webhooks that nobody may fail, and where their pods run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub webhooks: Vec<Webhook>,
    /// Our own record of what was there before the first prepare.
    pub record: Option<Value>,
    /// flannel's roles and accounts, and what else lives in its namespace.
    pub flannel_rest: FlannelRest,
}

/// A policy of Calico's own kinds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CalicoPolicy {
    /// `GlobalNetworkPolicy`, or `Calico NetworkPolicy`.
    pub kind: String,
    /// Its namespace, empty for one of the whole cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The pods that it is for, in Calico's language.
    pub selector: String,
    /// It is for pods of some namespaces only, which are not looked at.
    pub by_namespace: bool,
}

/// A pod that a NetworkPolicy may select.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicedPod {
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// An admission webhook without whose answer the API server refuses requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Webhook {
    /// Its configuration, as `Kind name`.
    pub configuration: String,
    /// Its Service, as `namespace/name`.
    pub service: String,
    /// Nodes of the ready pods behind it, once for each.
    pub nodes: Vec<String>,
}

/// What flannel's manifest installs besides its DaemonSet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FlannelRest {
    /// Its ServiceAccounts.
    pub service_accounts: Vec<Value>,
    /// Its ClusterRoleBindings.
    pub cluster_role_bindings: Vec<Value>,
    /// Its ClusterRoles.
    pub cluster_roles: Vec<Value>,
    /// Its Namespace, if it has one of its own.
    pub namespace: Option<Value>,
    /// Everything in that namespace, as `Kind name`.
    pub inhabitants: Vec<String>,
}

/// A pod of one of the agents.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentPod {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The DaemonSet that it belongs to.
    pub daemon_set: String,
    /// The node it runs on.
    pub node: String,
    /// It is ready.
    pub ready: bool,
    /// It is being deleted.
    pub terminating: bool,
    /// Its own node selector, which is what the kubelet goes by when it starts anew.
    pub node_selector: BTreeMap<String, String>,
    /// Its felix leaves VXLAN alone whatever pools there are (Canal's, once prepared).
    #[serde(default)]
    pub leaves_vxlan_alone: bool,
}
