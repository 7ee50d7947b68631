//! A cluster with flannel, Calico's manifests and workloads, ready to be switched; and nodectl as an operator calls it.

mod checks;
pub mod crash;
mod crowd;
mod drive;
mod end_state;
pub mod in_place;
mod nodectl;
mod plans;
mod remains;
mod sample;
mod wholeness;

use anyhow::{Context, Result};
use serde_json::Value;

pub use self::nodectl::Done;
pub use ::nodectl::cni::Cni;
pub use drive::Driven;
pub use plans::SavedPlan;
pub use sample::{full, sample, seed, shuffled};
pub use wholeness::Off;
pub use wholeness::touches;

use crate::client::Client;
use crate::cluster::{Cluster, Network, Options};
use crate::node::Node;
use crate::objects::{self, Manifest, workloads};
pub use crate::wait::PATIENCE;

/// A cluster that is being switched.
pub struct Scenario {
    /// The cluster.
    pub cluster: Cluster,
    /// The administrator's client.
    pub client: Client,
}

impl Scenario {
    /// A cluster of so many nodes on flannel, with Calico's manifests applied and these workloads running. `Options::dual_stack` as the
    /// change makes it dual stack.
    pub fn start(nodes: u8, workloads: &[Manifest], change: impl FnOnce(&mut Options)) -> Result<Scenario> {
        let mut options =
            Options { nodes, network: Network::Flannel(objects::flannel::Flannel::default()), ..Options::default() };
        change(&mut options);
        let cluster = Cluster::start(options)?;
        let client = cluster.client()?;
        objects::install(&client, &objects::calico_crds::manifests())?;
        objects::install(&client, &objects::calico::manifests(&objects::calico::Calico::of(cluster.options())))?;
        cluster.wait_nodes_ready(PATIENCE).context("flannel's nodes did not become Ready")?;
        objects::install(&client, workloads)?;
        let scenario = Scenario { cluster, client };
        scenario.settled()?;
        Ok(scenario)
    }

    /// Starts the API server again after a kill. Its port on the machine's loopback is another one then.
    pub fn restart_api(&mut self) -> Result<()> {
        self.cluster.restart_api()?;
        self.client = self.cluster.client()?;
        Ok(())
    }

    /// The workloads of most tests: Deployments, a DaemonSet with pod network, a hostPort, a budget.
    pub fn workloads(replicas: u32) -> Vec<Manifest> {
        let mut all = workloads::web(replicas);
        all.push(workloads::daemon("probe"));
        all.push(workloads::host_port("front", 8080));
        all.extend(workloads::guarded("guarded", 3, 2));
        all
    }

    /// Waits until every pod that should run does, and stays.
    pub fn settled(&self) -> Result<()> {
        // A Deployment that was made a moment ago has no pods yet, and all that exist are Ready.
        crate::cluster::readiness::until(PATIENCE, || {
            let deployments = self.client.list("/apis/apps/v1/namespaces/default/deployments")?;
            let wanted: u64 = deployments.iter().filter_map(|d| d["spec"]["replicas"].as_u64()).sum();
            let pods = self.pods()?;
            let made = pods.iter().filter(|p| p["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet").count();
            Ok((u64::try_from(made)? < wanted).then(|| format!("{made} of {wanted} pods of Deployments exist")))
        })?;
        self.cluster.wait_pods_ready(1, PATIENCE).map(drop)
    }

    /// Node number `index`, from 1.
    pub fn node(&self, index: usize) -> Result<&dyn Node> {
        self.cluster.node(index)
    }

    /// The Node object.
    pub fn node_object(&self, index: usize) -> Result<Value> {
        Ok(self.client.get(&format!("/api/v1/nodes/node{index}"))?)
    }

    /// Pods of the workloads: namespace default, with pod network.
    pub fn pods(&self) -> Result<Vec<Value>> {
        Ok(self.client.list("/api/v1/namespaces/default/pods")?)
    }
}
