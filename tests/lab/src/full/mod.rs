//! Full nodes: a booted systemd container (systemd-nspawn) with Debian's systemd, D-Bus, containerd and runc.
//!
//! # What is real
//! PID 1, the bus, units and their jobs; containerd's CRI, its CNI calls and its reload of the conflist; runc's containers and namespaces; the
//! kernel's network. The kubelet is the lab's, as on light nodes, and so are the images.
//!
//! # What a node is made of
//! - Its root: an overlay of three layers. Lowest the root file system that [`root`] builds once per machine; on it the cluster's [`layer`]
//!   with the programs under test; on top the node's own [`disk`], which survives reboots and power cuts.
//! - Its network: a namespace that [`launch`] makes and configures before systemd starts, with eth0 on the lab's underlay bridge.
//! - Its cgroup: one folder in the machine's cgroup2 hierarchy, removed with the node ([`cgroup`]).
//!
//! # How the lab's programs run in real containers
//! They are programs linked to glibc, and some call ip, iptables and the CNI plugins. Their [`images`] therefore hold no program at all: the
//! entry point is the lab's binary at its path on the node, and `lab-runc`, which containerd starts in runc's place, mounts the node's /usr
//! read-only into each container of such an image ([`runc`]). Everything else of the container is its own: root, mounts, process and (unless
//! it is a host-network pod) network namespace. Manifests need no volume for it, so they are the same for light and full nodes.
//!
//! # What differs from a machine
//! No kernel modules and no udev; /proc/sys is read-only except for the network; /sys is read-only; no resource limits.

pub mod cgroup;
pub(crate) mod disk;
mod images;
pub mod launch;
mod layer;
pub mod root;
pub mod runc;

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::command;
use crate::node::{Kind, Node, Power, Spec, exec};

/// A full node, as the process that owns it sees it.
#[derive(Debug)]
pub struct FullNode(Power);

impl FullNode {
    /// Describes a node that `binary`, the lab's own, will launch; it is off until started. The first one of a machine takes a minute.
    pub fn new(spec: Spec, binary: PathBuf) -> Result<FullNode> {
        layers(&spec)?;
        Ok(FullNode(Power::new(spec, binary, "launch-full")?))
    }
}

/// What a full node's own files lie on, best first; made where it is missing.
pub(crate) fn layers(spec: &Spec) -> Result<[PathBuf; 2]> {
    let root = root::folder()?;
    Ok([layer::of(spec)?, root])
}

impl Node for FullNode {
    fn kind(&self) -> Kind {
        Kind::Full
    }

    fn power(&self) -> &Power {
        &self.0
    }

    fn shutdown(&self) -> Result<()> {
        self.0.shut_down(|pid| {
            let result = command::output(&mut exec::enter(pid, &["systemctl", "--no-block", "poweroff"]), "")?;
            if !result.ok() {
                bail!("{} would not shut down: {}", self.name(), result.stderr.trim());
            }
            Ok(())
        })
    }
}
