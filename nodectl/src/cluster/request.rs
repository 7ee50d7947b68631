//! What the operator asked for: the flags, and the moment, so that deciding needs no clock.

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// What `prepare` is told instead of what it finds, and when it was asked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Request {
    /// flannel's network.
    pub flannel_network: Option<Ipv4Net>,
    /// flannel's IPv6 network.
    pub flannel_ipv6_network: Option<Ipv6Net>,
    /// flannel's DaemonSet.
    pub flannel_daemonset: Option<NamespacedName>,
    /// MTU of the overlay.
    pub flannel_mtu: Option<u32>,
    /// flannel masquerades.
    pub flannel_ip_masq: Option<bool>,
    /// Prefix length of a node's pod CIDR.
    pub flannel_subnet_len: Option<u8>,
    /// Prefix length of a node's IPv6 pod CIDR.
    pub flannel_ipv6_subnet_len: Option<u8>,
    /// Prefix of flannel's annotations.
    pub flannel_annotation_prefix: Option<String>,
    /// flannel's VXLAN network identifier.
    pub flannel_vni: Option<u32>,
    /// flannel's UDP port.
    pub flannel_port: Option<u16>,
    /// Calico's DaemonSet.
    pub calico_daemonset: Option<NamespacedName>,
    /// The directory on the nodes that both agents write their CNI configuration to.
    pub cni_config_dir: Option<String>,
    /// Network policies may begin to be enforced.
    pub accept_policy_change: bool,
    /// A node begins only once it was allowed to.
    pub pace: bool,
    /// The nodes that `allow` and `pause` are about; all of them where there is none.
    pub nodes: Vec<String>,
    /// `allow` goes against the order that the control plane should keep.
    pub force: bool,
    /// `finish` leaves the addresses reserved that flannel's bridge may still have on a node.
    pub keep_reservations: bool,
    /// Now.
    pub now: Now,
}

/// A moment, in the two forms that objects need it in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Now {
    /// RFC 3339, whole seconds, UTC.
    pub rfc3339: String,
    /// Nanoseconds since 1970: a new block's sequence number, as Calico makes it.
    pub unix_ns: u64,
}

/// `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamespacedName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl std::str::FromStr for NamespacedName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(NamespacedName { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(format!("'{text}' is not NAMESPACE/NAME")),
        }
    }
}

impl TryFrom<String> for NamespacedName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<NamespacedName> for String {
    fn from(name: NamespacedName) -> String {
        name.to_string()
    }
}

impl std::fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
