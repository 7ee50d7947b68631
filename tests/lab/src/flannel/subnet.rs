//! subnet.env: what the flannel CNI plugin reads.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;
use ipnet::IpNet;

use crate::agent;
use crate::agent::family::Family;

use super::options::NetConf;

/// Writes the file with a temporary file and a rename, as flannel does.
pub fn write(path: &Path, net_conf: &NetConf, subnets: &[IpNet], mtu: u64, ip_masq: bool) -> Result<()> {
    let mut text = String::new();
    for family in net_conf.families() {
        let subnet = subnets.iter().find(|subnet| family.holds(subnet));
        if let (Some(network), Some(subnet)) = (net_conf.network_of(family), subnet) {
            let (network_key, subnet_key) = keys(family);
            // The gateway's address with the subnet's length, not the subnet.
            let (gateway, length) = (gateway(subnet), subnet.prefix_len());
            text.push_str(&format!("{network_key}={network}\n{subnet_key}={gateway}/{length}\n"));
        }
    }
    text.push_str(&format!("FLANNEL_MTU={mtu}\nFLANNEL_IPMASQ={ip_masq}\n"));
    agent::write_by_rename(path, text.as_bytes(), 0o644)
}

/// Network and subnet of a family that a former run wrote, if it did.
pub fn read(path: &Path, family: Family) -> Option<(IpNet, IpNet)> {
    let text = std::fs::read_to_string(path).ok()?;
    let (network, subnet) = keys(family);
    let subnet: IpNet = value(&text, subnet)?.parse().ok()?;
    Some((value(&text, network)?.parse().ok()?, subnet.trunc()))
}

/// The names of a family's lines: network, subnet.
pub fn keys(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("FLANNEL_NETWORK", "FLANNEL_SUBNET"),
        Family::V6 => ("FLANNEL_IPV6_NETWORK", "FLANNEL_IPV6_SUBNET"),
    }
}

/// A line's value.
pub fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

/// The first usable address of a subnet.
fn gateway(subnet: &IpNet) -> IpAddr {
    match subnet.network() {
        IpAddr::V4(base) => IpAddr::V4(u32::from(base).saturating_add(1).into()),
        IpAddr::V6(base) => IpAddr::V6(u128::from(base).saturating_add(1).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_come_in_flannels_order_and_are_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("subnet.env");
        let both = r#"{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:244::/56"}"#;
        let subnets: Vec<IpNet> = vec!["10.244.1.0/24".parse().unwrap(), "fd00:10:244:1::/64".parse().unwrap()];
        write(&path, &serde_json::from_str(both).unwrap(), &subnets, 1450, true).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPV6_NETWORK=fd00:10:244::/56\nFLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        );
        let (network, subnet) = read(&path, Family::V6).unwrap();
        assert_eq!((network.to_string().as_str(), subnet), ("fd00:10:244::/56", subnets[1]));
    }
}
