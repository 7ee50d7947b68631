//! How the kubelet is started.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

use crate::agent;

/// The flags; the defaults are those of a light node.
#[derive(Debug, Clone, Parser)]
#[command(name = "kubelet")]
struct Flags {
    /// The node's credentials
    #[arg(long, default_value = "/etc/kubernetes/kubelet.conf")]
    kubeconfig: PathBuf,
    /// The runtime's socket
    #[arg(long, default_value = crate::runtime::SOCKET)]
    container_runtime_endpoint: PathBuf,
    /// Folder with static pods
    #[arg(long, default_value = "/etc/kubernetes/manifests")]
    pod_manifest_path: PathBuf,
    /// The Node's name; the host's name otherwise
    #[arg(long)]
    hostname_override: Option<String>,
    /// The node's address, or two of different families; the first IPv4 one of eth0 otherwise
    #[arg(long, value_delimiter = ',')]
    node_ip: Vec<IpAddr>,
    /// First address of the service network
    #[arg(long, default_value = "10.96.0.1")]
    kubernetes_service: IpAddr,
    /// Milliseconds between two looks at the runtime's status; the real kubelet's are 5000
    #[arg(long, default_value_t = 1000)]
    runtime_poll_ms: u64,
    /// Milliseconds between two status reports without a change; the real kubelet's are 10000
    #[arg(long, default_value_t = 10000)]
    status_ms: u64,
}

/// Where packages let the administrator add arguments.
const EXTRA: &str = "/etc/default/kubelet";

/// The settings.
#[derive(Debug, Clone)]
pub struct Options {
    /// The node's credentials.
    pub kubeconfig: PathBuf,
    /// The runtime's socket.
    pub runtime: PathBuf,
    /// Folder with static pods.
    pub manifests: PathBuf,
    /// The Node's name.
    pub node: String,
    /// The node's address.
    pub address: IpAddr,
    /// Its address of the other family, in a dual-stack cluster.
    pub second_address: Option<IpAddr>,
    /// First address of the service network.
    pub service: IpAddr,
    /// Time between two looks at the runtime's status.
    pub runtime_poll: Duration,
    /// Time between two looks at the runtime's pods.
    pub relist: Duration,
    /// Time between two looks at which pods should run.
    pub dispatch: Duration,
    /// Time between two status reports without a change.
    pub status_period: Duration,
}

impl Options {
    /// Parses the arguments that follow the program's name.
    pub fn parse(arguments: &[String]) -> Result<Options> {
        let extra = extra_arguments(&std::fs::read_to_string(EXTRA).unwrap_or_default());
        let argv = std::iter::once(OsString::from("kubelet")).chain(arguments.iter().chain(&extra).map(OsString::from));
        let flags = Flags::try_parse_from(argv)?;
        let node = match flags.hostname_override {
            Some(name) => name,
            None => nix::unistd::gethostname().context("the host has no name")?.to_string_lossy().into_owned(),
        };
        let unhurried = agent::is_unhurried();
        Ok(Options {
            kubeconfig: flags.kubeconfig,
            runtime: flags.container_runtime_endpoint,
            manifests: flags.pod_manifest_path,
            node,
            address: match flags.node_ip.first() {
                Some(address) => *address,
                None => own_address()?,
            },
            second_address: flags.node_ip.get(1).copied(),
            service: flags.kubernetes_service,
            runtime_poll: Duration::from_millis(if unhurried { 5000 } else { flags.runtime_poll_ms }),
            relist: Duration::from_millis(if unhurried { 1000 } else { 250 }),
            dispatch: Duration::from_millis(if unhurried { 250 } else { 50 }),
            status_period: Duration::from_millis(flags.status_ms),
        })
    }
}

/// The words of KUBELET_EXTRA_ARGS in the text of /etc/default/kubelet.
fn extra_arguments(text: &str) -> Vec<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("KUBELET_EXTRA_ARGS="));
    line.unwrap_or_default().trim_matches('"').split_whitespace().map(str::to_owned).collect()
}

/// The first IPv4 address of eth0.
fn own_address() -> Result<IpAddr> {
    let text = crate::command::run(&["ip", "-j", "-4", "addr", "show", "dev", "eth0"])?;
    let links: serde_json::Value = serde_json::from_str(&text).context("ip's answer is not JSON")?;
    let address = links.pointer("/0/addr_info/0/local").and_then(serde_json::Value::as_str);
    address.and_then(|address| address.parse().ok()).context("eth0 has no IPv4 address. To fix it: give --node-ip")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_may_have_two_addresses() {
        let extra = extra_arguments("KUBELET_EXTRA_ARGS=\"--node-ip=192.168.77.1,fd00::1\"\n");
        let options = Options::parse(&extra).unwrap();
        assert_eq!(options.address, "192.168.77.1".parse::<IpAddr>().unwrap());
        assert_eq!(options.second_address, "fd00::1".parse().ok());
    }
}
