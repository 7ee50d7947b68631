//! A whole cluster: started, used, and gone when dropped.

mod options;
mod underlay;
pub mod up;
mod workspace;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::node::{LightNode, Node, Spec};

pub use options::{Options, cache};
use workspace::Workspace;
pub use workspace::guard;

/// The plugins that every node's /opt/cni/bin has from the start.
const PLUGINS: [&str; 7] = ["bridge", "host-local", "portmap", "bandwidth", "loopback", "tuning", "flannel"];

/// A running cluster. Dropping it removes all it made.
pub struct Cluster {
    // Dropped in this order: the nodes first, then what they stand on.
    nodes: Vec<Box<dyn Node>>,
    options: Options,
    workspace: Workspace,
}

impl Cluster {
    /// Makes the underlay and boots all nodes at once.
    pub fn start(options: Options) -> Result<Cluster> {
        options.check()?;
        let workspace = Workspace::new(&options.binary)?;
        underlay::set_up(&workspace.underlay())?;
        copy_plugins(&options, &workspace.folder.join("opt"))?;
        let mut cluster = Cluster { nodes: Vec::new(), options, workspace };
        for index in 1..=cluster.options.nodes {
            let node = cluster.describe(index)?;
            cluster.nodes.push(node);
        }
        cluster.boot_all()?;
        Ok(cluster)
    }

    /// Node number `index`, from 1.
    pub fn node(&self, index: usize) -> Result<&dyn Node> {
        let node = index.checked_sub(1).and_then(|place| self.nodes.get(place));
        Ok(node.with_context(|| format!("the cluster has no node {index}"))?.as_ref())
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &dyn Node> {
        self.nodes.iter().map(AsRef::as_ref)
    }

    /// The cluster's folder on the machine.
    pub fn folder(&self) -> &Path {
        &self.workspace.folder
    }

    /// Boots all nodes side by side.
    fn boot_all(&self) -> Result<()> {
        std::thread::scope(|scope| {
            let boots: Vec<_> = self.nodes.iter().map(|node| scope.spawn(|| node.start())).collect();
            boots
                .into_iter()
                .try_for_each(|boot| boot.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a node's boot panicked"))))
        })
    }

    /// Describes a light node.
    fn describe(&self, index: u8) -> Result<Box<dyn Node>> {
        let name = format!("node{index}");
        let mut binds = vec![(self.options.binary.clone(), PathBuf::from("/usr/local/bin/nodectl-lab"))];
        binds.extend(self.options.nodectl.clone().map(|path| (path, PathBuf::from("/usr/local/bin/nodectl"))));
        binds.extend(self.options.shim.clone().map(|path| (path, PathBuf::from("/usr/libexec/nodectl/cni-shim"))));
        let spec = Spec {
            address: underlay::host(index),
            gateway: underlay::gateway(),
            underlay: self.workspace.underlay(),
            service: [10, 96, 0, 1].into(),
            cluster_cidr: self.options.cluster_cidr.clone(),
            folder: self.workspace.folder.join(&name),
            binds,
            opt: self.workspace.folder.join("opt"),
            files: self.options.files.clone(),
            name,
            index,
        };
        Ok(Box::new(LightNode::new(spec, self.options.binary.clone())?))
    }
}

/// Fills the folder that nodes see as /opt; a plugin that is nowhere is left out.
fn copy_plugins(options: &Options, opt: &Path) -> Result<()> {
    let target = opt.join("cni/bin");
    fs::create_dir_all(&target).with_context(|| format!("{} could not be made", target.display()))?;
    for plugin in PLUGINS {
        let found = options.plugin_folders.iter().map(|folder| folder.join(plugin)).find(|path| path.is_file());
        if let Some(path) = found {
            fs::copy(&path, target.join(plugin))
                .with_context(|| format!("the plugin {} could not be copied", path.display()))?;
        }
    }
    Ok(())
}
