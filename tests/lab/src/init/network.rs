//! A light node's own network: eth0, forwarding, and the rules that kubelet and kube-proxy keep on every node.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::command;
use crate::node::Spec;

/// What kubeadm's preconditions and Calico's documentation ask for. br_netfilter may be absent: then nothing needs its knob.
const SYSCTLS: [(&str, &str); 6] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/conf/all/rp_filter", "1"),
    ("net/ipv4/conf/default/rp_filter", "1"),
    ("net/bridge/bridge-nf-call-iptables", "1"),
    ("net/bridge/bridge-nf-call-ip6tables", "1"),
];

/// Brings up lo and eth0 and loads the firewall rules.
pub fn set_up(spec: &Spec) -> Result<()> {
    for (name, value) in SYSCTLS {
        let path = Path::new("/proc/sys").join(name);
        if path.exists() {
            fs::write(&path, value).with_context(|| format!("{name} could not be set to {value}"))?;
        }
    }
    let (address, gateway) = (spec.address, spec.gateway);
    let mut script = format!(
        "link set lo up\naddress add {address}/24 brd + dev eth0\nlink set eth0 up\nroute add default via {gateway} dev eth0 onlink\n"
    );
    if let Some(second) = &spec.ipv6 {
        let (address, gateway) = (second.address, second.gateway);
        script.push_str(&format!(
            "address add {address}/64 dev eth0 nodad\nroute add default via {gateway} dev eth0 onlink\n"
        ));
    }
    command::run_with_input(&["ip", "-batch", "-"], &script)?;
    if spec.ipv6.is_some() {
        command::run_with_input(&["ip6tables-nft-restore", "--noflush"], &kube_rules_v6())?;
    }
    command::run_with_input(&["iptables-nft-restore", "--noflush"], &kube_rules(spec)).map(drop)
}

/// The same without what is IPv4's alone: the service has no IPv6 address, and there is no local network to guard.
fn kube_rules_v6() -> String {
    const V4_ONLY: [&str; 5] = ["SERVICE_IP", "APISERVER_IP", "127.0.0.0/8", "LABAPISERVER", "NPX46M4PTMTKRN6Y"];
    let kept = |line: &&str| !line.starts_with("##") && !V4_ONLY.iter().any(|word| line.contains(word));
    include_str!("kube-rules.txt").lines().filter(kept).map(|line| format!("{line}\n")).collect()
}

/// The rules as kubelet and kube-proxy write them, for the one service that the lab itself needs: the API server's.
fn kube_rules(spec: &Spec) -> String {
    include_str!("kube-rules.txt")
        .lines()
        .filter(|line| !line.starts_with("##"))
        .map(|line| {
            line.replace("SERVICE_IP", &spec.service.to_string())
                .replace("APISERVER_IP", &spec.gateway.to_string())
                .replace("CLUSTER_CIDR", &spec.cluster_cidr)
                + "\n"
        })
        .collect()
}
