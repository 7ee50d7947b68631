//! What the configuration file says of the cluster, in its table `[cluster]`: the same values as the flags, which win.

use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Deserializer};

use super::request::{NamespacedName, Request};

/// The table; what it does not name is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// `--kubeconfig`.
    pub kubeconfig: Option<PathBuf>,
    /// `--context`.
    pub context: Option<String>,
    /// `--backup-dir`.
    pub backup_dir: Option<PathBuf>,
    /// `--flannel-network`.
    pub flannel_network: Option<Ipv4Net>,
    /// `--flannel-ipv6-network`.
    pub flannel_ipv6_network: Option<Ipv6Net>,
    /// `--flannel-daemonset`.
    pub flannel_daemonset: Option<NamespacedName>,
    /// `--flannel-mtu`, in bytes.
    #[serde(deserialize_with = "within::<_, _, 576, 65535>")]
    pub flannel_mtu: Option<u32>,
    /// `--flannel-ip-masq`.
    pub flannel_ip_masq: Option<bool>,
    /// `--flannel-subnet-len`.
    #[serde(deserialize_with = "within::<_, _, 8, 30>")]
    pub flannel_subnet_len: Option<u8>,
    /// `--flannel-ipv6-subnet-len`.
    #[serde(deserialize_with = "within::<_, _, 16, 124>")]
    pub flannel_ipv6_subnet_len: Option<u8>,
    /// `--flannel-annotation-prefix`.
    pub flannel_annotation_prefix: Option<String>,
    /// `--flannel-vni`.
    #[serde(deserialize_with = "within::<_, _, 1, 16777215>")]
    pub flannel_vni: Option<u32>,
    /// `--flannel-port`.
    #[serde(deserialize_with = "within::<_, _, 1, 65535>")]
    pub flannel_port: Option<u16>,
    /// `--calico-daemonset`.
    pub calico_daemonset: Option<NamespacedName>,
    /// `--cni-config-dir`.
    pub cni_config_dir: Option<String>,
    /// `--accept-policy-change`.
    pub accept_policy_change: Option<bool>,
}

impl ClusterConfig {
    /// The request, with what no flag says from here.
    pub fn complete(&self, asked: Request) -> Request {
        let here = self.clone();
        Request {
            flannel_network: asked.flannel_network.or(here.flannel_network),
            flannel_ipv6_network: asked.flannel_ipv6_network.or(here.flannel_ipv6_network),
            flannel_daemonset: asked.flannel_daemonset.or(here.flannel_daemonset),
            flannel_mtu: asked.flannel_mtu.or(here.flannel_mtu),
            flannel_ip_masq: asked.flannel_ip_masq.or(here.flannel_ip_masq),
            flannel_subnet_len: asked.flannel_subnet_len.or(here.flannel_subnet_len),
            flannel_ipv6_subnet_len: asked.flannel_ipv6_subnet_len.or(here.flannel_ipv6_subnet_len),
            flannel_annotation_prefix: asked.flannel_annotation_prefix.or(here.flannel_annotation_prefix),
            flannel_vni: asked.flannel_vni.or(here.flannel_vni),
            flannel_port: asked.flannel_port.or(here.flannel_port),
            calico_daemonset: asked.calico_daemonset.or(here.calico_daemonset),
            cni_config_dir: asked.cni_config_dir.or(here.cni_config_dir),
            accept_policy_change: asked.accept_policy_change || here.accept_policy_change.unwrap_or_default(),
            ..asked
        }
    }
}

/// A number within bounds, which are the flag's.
fn within<'de, D, T, const LOW: u32, const HIGH: u32>(value: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u32>,
{
    let number = i64::deserialize(value)?;
    let fits = u32::try_from(number).ok().filter(|n| (LOW..=HIGH).contains(n)).and_then(|n| T::try_from(n).ok());
    fits.map(Some).ok_or_else(|| serde::de::Error::custom(format!("{number} is not between {LOW} and {HIGH}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file() {
        let text = "flannel_vni = 7\nflannel_mtu = 1400\nflannel_daemonset = 'kube-system/kube-flannel-ds'\n\
                    flannel_network = '10.1.0.0/16'\naccept_policy_change = true\n";
        let config: ClusterConfig = toml::from_str(text).expect("a table");
        let asked = Request { flannel_vni: Some(9), pace: true, ..Request::default() };
        let whole = config.complete(asked);
        assert_eq!((whole.flannel_vni, whole.flannel_mtu), (Some(9), Some(1400)));
        assert_eq!(whole.flannel_daemonset.map(|d| d.to_string()).as_deref(), Some("kube-system/kube-flannel-ds"));
        assert!(whole.pace && whole.accept_policy_change);
    }

    #[test]
    fn numbers_have_the_bounds_of_the_flags() {
        for wrong in ["flannel_vni = 0", "flannel_port = 65536", "flannel_mtu = 100", "flannel_subnet_len = 31"] {
            let said = toml::from_str::<ClusterConfig>(wrong).expect_err(wrong).to_string();
            assert!(said.contains("is not between"), "{said}");
        }
    }
}
