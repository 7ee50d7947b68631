//! subnet.env: what the flannel CNI plugin reads.

use std::path::Path;

use anyhow::Result;
use ipnet::Ipv4Net;

use crate::agent;

use super::options::NetConf;

/// Writes the file with a temporary file and a rename, as flannel does.
pub fn write(path: &Path, net_conf: &NetConf, pod_cidr: Ipv4Net, mtu: u64, ip_masq: bool) -> Result<()> {
    // FLANNEL_SUBNET is the gateway's address with the subnet's length, not the subnet.
    let gateway = u32::from(pod_cidr.network()).saturating_add(1);
    let text = format!(
        "FLANNEL_NETWORK={}\nFLANNEL_SUBNET={}/{}\nFLANNEL_MTU={mtu}\nFLANNEL_IPMASQ={ip_masq}\n",
        net_conf.network,
        std::net::Ipv4Addr::from(gateway),
        pod_cidr.prefix_len(),
    );
    agent::write_by_rename(path, text.as_bytes(), 0o644)
}

/// Network and subnet that a former run wrote, if it did.
pub fn read(path: &Path) -> Option<(Ipv4Net, Ipv4Net)> {
    let text = std::fs::read_to_string(path).ok()?;
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned);
    let network = value("FLANNEL_NETWORK")?.parse().ok()?;
    let subnet: Ipv4Net = value("FLANNEL_SUBNET")?.parse().ok()?;
    Some((network, subnet.trunc()))
}
