//! What a node is made from: written by the cluster, read by its launcher and, on a light node, its PID 1.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The description of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// The node's name.
    pub name: String,
    /// Its number in the cluster, from 1.
    pub index: u8,
    /// Its address on the underlay, a /24.
    pub address: Ipv4Addr,
    /// Default gateway and address of the API server.
    pub gateway: Ipv4Addr,
    /// What a node of a dual-stack cluster has besides.
    pub ipv6: Option<Second>,
    /// The network namespace that holds the underlay bridge.
    pub underlay: String,
    /// First address of the service network: the `kubernetes` service.
    pub service: Ipv4Addr,
    /// The network of all pods, as kube-proxy knows it.
    pub cluster_cidr: String,
    /// The node's folder on the machine: its disk, its console, this description.
    pub folder: PathBuf,
    /// Files of the machine that the node sees under other names: (on the machine, in the node).
    pub binds: Vec<(PathBuf, PathBuf)>,
    /// What all nodes see as /opt until they write to it: the CNI plugins of the packages.
    pub opt: PathBuf,
    /// Text files that the node has from its first boot on: (path in the node, text).
    pub files: Vec<(String, String)>,
}

/// A node's place in the IPv6 underlay.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Second {
    /// Its address, a /64.
    pub address: Ipv6Addr,
    /// Default gateway.
    pub gateway: Ipv6Addr,
}

impl Spec {
    /// The MAC of eth0: the same at each boot, as hardware's is; else peers would ask a stale ARP entry for half a minute.
    pub fn mac(&self) -> String {
        let [a, b, c, d] = self.address.octets();
        format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
    }

    /// The name of the node's port on the underlay bridge.
    pub fn port(&self) -> String {
        format!("v{}", self.index)
    }

    /// Where the description is kept.
    pub fn file(&self) -> PathBuf {
        self.folder.join("spec.json")
    }

    /// Where what the node's launcher and PID 1 write is kept.
    pub fn console_file(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    /// What the node's launcher and PID 1 have written so far.
    pub fn console(&self) -> String {
        std::fs::read_to_string(self.console_file()).unwrap_or_default()
    }

    /// The socket of the line to the node's machine, where it has one of its own.
    pub fn line(&self) -> PathBuf {
        self.folder.join("line")
    }

    /// Reads a description.
    pub fn read(path: &Path) -> Result<Spec> {
        let text = std::fs::read(path)
            .with_context(|| format!("the node's description {} could not be read", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("the node's description {} is not valid", path.display()))
    }

    /// Writes the description into the node's folder.
    pub fn write(&self) -> Result<()> {
        let path = self.file();
        std::fs::create_dir_all(&self.folder)
            .with_context(|| format!("the node's folder {} could not be made", self.folder.display()))?;
        std::fs::write(&path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("the node's description {} could not be written", path.display()))
    }
}
