//! Calico's IPAM garbage collector, as kube-controllers runs it: leaked addresses, and blocks that a node does not need.
//!
//! The inconvenient part: an empty block is taken from a node that has others, unless the node's label says that it is
//! being migrated (any value but `calico`), though flannel nodes still route the whole pod network to it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::access::Access;
use crate::apiserver::value::{items, text};
use crate::client::ClientResult;

const BLOCKS: &str = "ipamblocks.crd.projectcalico.org";
const AFFINITIES: &str = "blockaffinities.crd.projectcalico.org";
const HANDLES: &str = "ipamhandles.crd.projectcalico.org";
const MIGRATION_LABEL: &str = "projectcalico.org/node-network-during-migration";

/// The collector remembers since when something looks leaked.
pub struct CalicoGc {
    grace: Duration,
    suspects: HashMap<String, Instant>,
}

/// What is known of the cluster in one run.
struct Cluster {
    nodes: Vec<Arc<Value>>,
    pods: Vec<Arc<Value>>,
    blocks: Vec<Arc<Value>>,
}

/// An address in use.
struct Allocation {
    block: usize,
    ordinal: usize,
    handle: String,
    leaked: bool,
    node_gone: bool,
}

impl CalicoGc {
    /// Waits this long before it releases anything.
    pub fn new(grace: Duration) -> Self {
        Self { grace, suspects: HashMap::new() }
    }

    /// One full scan.
    pub fn run(&mut self, access: &Access) -> ClientResult<()> {
        let cluster =
            Cluster { nodes: access.list("nodes")?, pods: access.list("pods")?, blocks: access.list(BLOCKS)? };
        if cluster.blocks.is_empty() {
            return Ok(());
        }
        let mut suspected = Vec::new();
        self.release_leaks(access, &cluster, &mut suspected)?;
        let cluster = Cluster { blocks: access.list(BLOCKS)?, ..cluster };
        self.release_blocks(access, &cluster, &mut suspected)?;
        self.suspects.retain(|key, _| suspected.contains(key));
        Ok(())
    }

    /// Whether `key` has looked leaked for the whole grace period.
    fn confirmed(&mut self, key: String, suspected: &mut Vec<String>) -> bool {
        suspected.push(key.clone());
        self.suspects.entry(key).or_insert_with(Instant::now).elapsed() >= self.grace
    }

    /// A handle is released only if all of its addresses are leaks.
    fn release_leaks(&mut self, access: &Access, cluster: &Cluster, suspected: &mut Vec<String>) -> ClientResult<()> {
        let mut by_handle: BTreeMap<String, Vec<Allocation>> = BTreeMap::new();
        for allocation in cluster.allocations() {
            by_handle.entry(allocation.handle.clone()).or_default().push(allocation);
        }
        let mut ordinals: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (handle, allocations) in &by_handle {
            if !allocations.iter().all(|allocation| allocation.leaked) {
                continue;
            }
            let at_once = allocations.iter().any(|allocation| allocation.node_gone);
            if self.confirmed(format!("handle {handle}"), suspected) || at_once {
                for allocation in allocations {
                    ordinals.entry(allocation.block).or_default().push(allocation.ordinal);
                }
                drop_handle(access, handle)?;
            }
        }
        for (block, ordinals) in ordinals {
            free(access, &cluster.blocks[block], &ordinals);
        }
        Ok(())
    }

    fn release_blocks(&mut self, access: &Access, cluster: &Cluster, suspected: &mut Vec<String>) -> ClientResult<()> {
        let mut left: HashMap<String, usize> = HashMap::new();
        for block in &cluster.blocks {
            *left.entry(host_of(block).to_string()).or_default() += 1;
        }
        for block in cluster.blocks.iter().filter(|block| is_empty(block)) {
            let host = host_of(block);
            let node = cluster.node(host);
            let several = left.get(host).is_some_and(|count| *count > 1);
            if host.is_empty() || node.is_some_and(is_migrating) || (node.is_some() && !several) {
                continue;
            }
            let key = format!("block {}", text(&block["spec"]["cidr"]));
            if self.confirmed(key, suspected) || node.is_none() {
                give_back(access, block)?;
                left.entry(host.to_string()).and_modify(|count| *count -= 1);
            }
        }
        Ok(())
    }
}

impl Cluster {
    fn node(&self, name: &str) -> Option<&Value> {
        self.nodes.iter().find(|node| node["metadata"]["name"] == name).map(Arc::as_ref)
    }

    fn allocations(&self) -> Vec<Allocation> {
        let mut found = Vec::new();
        for (index, block) in self.blocks.iter().enumerate() {
            for (ordinal, allocation) in items(&block["spec"]["allocations"]).enumerate() {
                let attribute =
                    allocation.as_u64().and_then(|at| block["spec"]["attributes"].get(usize::try_from(at).ok()?));
                let Some(attribute) = attribute else { continue };
                let node_gone = self.node(text(&attribute["secondary"]["node"])).is_none();
                found.push(Allocation {
                    block: index,
                    ordinal,
                    handle: text(&attribute["handle_id"]).to_string(),
                    leaked: !self.is_valid(block, ordinal, &attribute["secondary"]),
                    node_gone,
                });
            }
        }
        found
    }

    /// Tunnel addresses live as long as their node; a Pod's as long as the Pod is there and has it; what has neither
    /// is of unknown source and stays.
    fn is_valid(&self, block: &Value, ordinal: usize, attributes: &Value) -> bool {
        let node = text(&attributes["node"]);
        if text(&attributes["type"]).ends_with("TunnelAddress") {
            return self.node(node).is_some();
        }
        let (namespace, name) = (text(&attributes["namespace"]), text(&attributes["pod"]));
        if namespace.is_empty() || name.is_empty() {
            return true;
        }
        let pod = self.pods.iter().find(|pod| {
            pod["metadata"]["namespace"] == namespace
                && pod["metadata"]["name"] == name
                && pod["spec"]["nodeName"] == node
        });
        let Some(pod) = pod else { return false };
        let address = address(block, ordinal);
        let mut addresses = items(&pod["status"]["podIPs"]).map(|entry| text(&entry["ip"])).peekable();
        let single = text(&pod["status"]["podIP"]);
        (addresses.peek().is_none() && single.is_empty())
            || single == address
            || addresses.any(|known| known == address)
    }
}

fn address(block: &Value, ordinal: usize) -> String {
    let network: Option<ipnet::IpNet> = text(&block["spec"]["cidr"]).parse().ok();
    match network {
        Some(ipnet::IpNet::V4(network)) => {
            let first = u32::from(network.network());
            std::net::Ipv4Addr::from(first + u32::try_from(ordinal).unwrap_or(0)).to_string()
        }
        Some(ipnet::IpNet::V6(network)) => {
            let first = u128::from(network.network());
            std::net::Ipv6Addr::from(first + u128::try_from(ordinal).unwrap_or(0)).to_string()
        }
        None => String::new(),
    }
}

fn host_of(block: &Value) -> &str {
    text(&block["spec"]["affinity"]).strip_prefix("host:").unwrap_or_default()
}

fn is_empty(block: &Value) -> bool {
    items(&block["spec"]["allocations"]).all(Value::is_null)
}

fn is_migrating(node: &Value) -> bool {
    node["metadata"]["labels"].get(MIGRATION_LABEL).is_some_and(|value| value != "calico")
}

/// Takes addresses out of a block: free ordinals go to the end of the queue, attributes that nobody uses go.
fn free(access: &Access, block: &Value, ordinals: &[usize]) {
    let spec = &block["spec"];
    let mut allocations: Vec<Value> = items(&spec["allocations"]).cloned().collect();
    let mut unallocated: Vec<Value> = items(&spec["unallocated"]).cloned().collect();
    for ordinal in ordinals {
        if let Some(slot) = allocations.get_mut(*ordinal) {
            *slot = Value::Null;
            unallocated.push(json!(ordinal));
        }
    }
    let old: Vec<&Value> = items(&spec["attributes"]).collect();
    let mut attributes: Vec<Value> = Vec::new();
    let mut moved: HashMap<u64, usize> = HashMap::new();
    for slot in &mut allocations {
        let Some(at) = slot.as_u64() else { continue };
        let new = *moved.entry(at).or_insert_with(|| {
            let attribute = usize::try_from(at).ok().and_then(|at| old.get(at));
            attributes.push(attribute.map_or(Value::Null, |attribute| (*attribute).clone()));
            attributes.len() - 1
        });
        *slot = json!(new);
    }
    let sequence = spec["sequenceNumber"].as_u64().unwrap_or(0) + 1;
    let patch = json!({"metadata": {"resourceVersion": block["metadata"]["resourceVersion"]},
        "spec": {"allocations": allocations, "unallocated": unallocated, "attributes": attributes, "sequenceNumber": sequence}});
    access.patch(BLOCKS, block, "", &patch);
}

fn drop_handle(access: &Access, id: &str) -> ClientResult<()> {
    let named = |handle: &&Arc<Value>| text(&handle["spec"]["handleID"]).eq_ignore_ascii_case(id);
    if let Some(handle) = access.list(HANDLES)?.iter().find(named) {
        access.delete(HANDLES, handle, None);
    }
    Ok(())
}

/// The node loses a block: first its claim, then the block.
fn give_back(access: &Access, block: &Value) -> ClientResult<()> {
    for affinity in access.list(AFFINITIES)? {
        if affinity["spec"]["cidr"] == block["spec"]["cidr"] && affinity["spec"]["node"] == host_of(block) {
            access.delete(AFFINITIES, &affinity, None);
        }
    }
    access.delete(BLOCKS, block, None);
    Ok(())
}
