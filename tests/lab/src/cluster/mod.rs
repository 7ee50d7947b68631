//! A whole cluster: started, used, and gone when dropped.

mod api_server;
mod credentials;
mod options;
pub mod readiness;
mod underlay;
pub mod up;
mod workspace;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::agent::UNHURRIED;
use crate::client::Client;
use crate::full::FullNode;
use crate::node::{Kind, LightNode, Node, Spec};
use crate::objects::{self, Manifest};
use crate::vm::MachineNode;

pub use api_server::ApiServer;
pub use options::{Network, Options, POD_NETWORK_V6, assets, cache};
pub use readiness::{is_ready, until};
use workspace::Workspace;
pub use workspace::{guard, scratch};

/// The plugins that every node's /opt/cni/bin has from the start; flannel's comes with flannel.
const PLUGINS: [&str; 6] = ["bridge", "host-local", "portmap", "bandwidth", "loopback", "tuning"];

/// The plugins that flannel's and Calico's images bring along; `calico` where the environment names a real one.
const BROUGHT: [&str; 2] = ["flannel", "calico"];

/// A running cluster. Dropping it removes all it made.
pub struct Cluster {
    // Dropped in this order: the nodes first, then what they stand on.
    nodes: Vec<Arc<dyn Node>>,
    api: Option<ApiServer>,
    options: Options,
    workspace: Workspace,
}

impl Cluster {
    /// Makes the underlay, starts the API server, boots all nodes at once. Answers before the nodes are Ready.
    pub fn start(options: Options) -> Result<Cluster> {
        options.check()?;
        let workspace = Workspace::new(&options.binary)?;
        underlay::set_up(&workspace.underlay(), options.cluster_cidr_v6.is_some())?;
        copy_plugins(&options, &workspace.folder.join("opt"))?;
        write_flannel_plugin(&workspace.folder)?;
        let api = if options.api { Some(ApiServer::start(&options, &workspace)?) } else { None };
        let mut cluster = Cluster { nodes: Vec::new(), api, options, workspace };
        if let Some(api) = &cluster.api {
            let client = api.client()?;
            credentials::prepare(api, &client)?;
            match &cluster.options.network {
                Network::Flannel(flannel) => objects::install(&client, &objects::flannel::manifests(flannel))?,
                Network::Canal(canal) => objects::install(&client, &objects::canal::manifests(canal))?,
                Network::None | Network::Bridge => {}
            }
        }
        for index in 1..=cluster.options.nodes {
            let node = cluster.describe(index)?;
            cluster.nodes.push(node);
        }
        cluster.boot_all()?;
        Ok(cluster)
    }

    /// Adds a node and boots it.
    pub fn add_node(&mut self) -> Result<&dyn Node> {
        let index = u8::try_from(self.nodes.len() + 1).context("the cluster has no room for another node")?;
        let node = self.describe(index)?;
        node.start()?;
        self.nodes.push(node);
        self.node(usize::from(index))
    }

    /// The API server.
    pub fn api(&self) -> Result<&ApiServer> {
        self.api.as_ref().context("the cluster has no API server. To fix it: set Options::api")
    }

    /// A client with all rights.
    pub fn client(&self) -> Result<Client> {
        self.api()?.client()
    }

    /// Starts the API server again after a kill.
    pub fn restart_api(&self) -> Result<()> {
        self.api()?.restart(&self.workspace.folder)
    }

    /// Creates objects; those that are there already stay as they are.
    pub fn install(&self, manifests: &[Manifest]) -> Result<()> {
        Ok(objects::install(&self.client()?, manifests)?)
    }

    /// What the cluster is made of.
    pub fn options(&self) -> &Options {
        &self.options
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

    /// All nodes, for threads that outlive a borrow.
    pub fn shared_nodes(&self) -> Vec<Arc<dyn Node>> {
        self.nodes.clone()
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

    /// Describes a node, and registers it so that its subnet is the one of its number.
    fn describe(&self, index: u8) -> Result<Arc<dyn Node>> {
        let name = format!("node{index}");
        let kind = self.options.kind(index);
        let address = underlay::host(index);
        let mut files = self.options.files.clone();
        if let Some(api) = &self.api {
            let client = api.client()?;
            let mut object = objects::node(&name, &address.to_string());
            let cidrs = self.options.pod_cidrs(index)?;
            object["spec"] = serde_json::json!({"podCIDR": cidrs.first(), "podCIDRs": cidrs});
            client.ensure("/api/v1/nodes", &object)?;
            files.extend(credentials::files(api, &client, &name)?);
        }
        if kind.is_emulated() {
            files.push((UNHURRIED.to_owned(), String::new()));
        }
        if let Network::Bridge = self.options.network {
            files.push(("/etc/cni/net.d/10-lab.conflist".to_owned(), bridge_conflist(&self.options.pod_cidr(index)?)));
        }
        let ipv6 = self.options.cluster_cidr_v6.is_some().then(|| underlay::second(index));
        if let Some(second) = &ipv6 {
            let arguments = format!("KUBELET_EXTRA_ARGS=\"--node-ip={address},{}\"\n", second.address);
            files.push(("/etc/default/kubelet".to_owned(), arguments));
        }
        let spec = Spec {
            address,
            ipv6,
            gateway: underlay::gateway(),
            underlay: self.workspace.underlay(),
            service: [10, 96, 0, 1].into(),
            cluster_cidr: self.options.cluster_cidr.clone(),
            folder: self.workspace.folder.join(&name),
            binds: self.binds(kind),
            opt: self.workspace.folder.join("opt"),
            files,
            name,
            index,
        };
        let binary = self.options.binary.clone();
        Ok(match kind {
            Kind::Light => Arc::new(LightNode::new(spec, binary)?),
            Kind::Full => Arc::new(FullNode::new(spec, binary)?),
            Kind::Machine | Kind::FullMachine => Arc::new(MachineNode::new(spec, binary, kind)?),
        })
    }

    /// The machine's files that every node sees: (on the machine, in the node).
    fn binds(&self, kind: Kind) -> Vec<(PathBuf, PathBuf)> {
        let options = &self.options;
        let mut binds = vec![(options.binary.clone(), PathBuf::from("/usr/local/bin/nodectl-lab"))];
        // Where packages put it; a light node's /usr/bin is the machine's.
        let nodectl = if kind.is_full() { "/usr/bin/nodectl" } else { "/usr/local/bin/nodectl" };
        binds.extend(options.nodectl.clone().map(|path| (path, PathBuf::from(nodectl))));
        binds.extend(options.shim.clone().map(|path| (path, PathBuf::from("/usr/libexec/nodectl/cni-shim"))));
        let given = Path::new("/usr/local/lib/nodectl-lab");
        binds.extend(options.programs.iter().map(|(name, path)| (path.clone(), given.join(name))));
        for plugin in BROUGHT {
            let file = match plugin {
                "flannel" if options.cluster_cidr_v6.is_some() => Some(flannel_plugin(&self.workspace.folder)),
                _ => options.plugin(plugin),
            };
            binds.extend(file.map(|path| (path, given.join("plugins").join(plugin))));
        }
        binds
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Somebody may hold a node still; its power goes all the same. What fails here is the guard's.
        for node in &self.nodes {
            let _ = node.power_cut();
        }
    }
}

/// A conflist of the bridge plugin with one subnet.
fn bridge_conflist(subnet: &str) -> String {
    let list = serde_json::json!({"cniVersion": "0.4.0", "name": "lab", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "hairpinMode": true, "ipMasq": true,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}]]}},
        {"type": "portmap", "capabilities": {"portMappings": true}}]});
    list.to_string()
}

/// Where a dual-stack cluster keeps flannel's plugin.
fn flannel_plugin(folder: &Path) -> PathBuf {
    folder.join("flannel-plugin")
}

/// Writes flannel's plugin of a dual-stack cluster, the lab's own: a script, since every node copies it.
fn write_flannel_plugin(folder: &Path) -> Result<()> {
    let path = flannel_plugin(folder);
    fs::write(&path, "#!/bin/sh\nexec /usr/local/bin/nodectl-lab flannel-plugin\n")
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("{} could not be written", path.display()))
}

/// Fills the folder that nodes see as /opt; a plugin that is nowhere is left out.
fn copy_plugins(options: &Options, opt: &Path) -> Result<()> {
    let target = opt.join("cni/bin");
    fs::create_dir_all(&target).with_context(|| format!("{} could not be made", target.display()))?;
    for plugin in PLUGINS {
        if let Some(path) = options.plugin(plugin) {
            fs::copy(&path, target.join(plugin))
                .with_context(|| format!("the plugin {} could not be copied", path.display()))?;
        }
    }
    Ok(())
}
