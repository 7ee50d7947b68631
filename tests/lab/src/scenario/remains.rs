//! What a pod's end must not leave: leases, host interfaces, port mappings, records, cached results, addresses.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::{PATIENCE, Scenario};
use crate::cluster::until;
use crate::cri::PodSandboxState;
use crate::node::Node;
use crate::objects::calico::GROUP;

/// Folders whose files are named after sandboxes, or hold a sandbox's id in their first line.
const FOLDERS: [&str; 7] = [
    "/var/lib/cni/networks/cbr0",
    "/var/lib/cni/networks/k8s-pod-network",
    "/var/lib/cni/results",
    "/var/lib/cni/flannel",
    "/var/lib/cni-shim/attachments",
    "/var/lib/cni-shim/pending",
    "/var/lib/cni-shim/holds",
];

impl Scenario {
    /// An error with all that is left of sandboxes that are gone, unless it goes within the lab's patience.
    pub fn must_leave_nothing(&self) -> Result<()> {
        until(PATIENCE, || {
            let left = self.remains()?;
            let count = left.len();
            Ok((count > 0).then(|| format!("{count} things are left of pods that are gone: {}", left.join("; "))))
        })
    }

    /// What is left of sandboxes that are gone, on all nodes that are on and in Calico's address management.
    pub fn remains(&self) -> Result<Vec<String>> {
        let (mut left, mut everywhere) = (Vec::new(), BTreeSet::new());
        let mut all_on = true;
        for node in self.cluster.nodes() {
            if !node.is_on() {
                all_on = false;
                continue;
            }
            let live = live_sandboxes(node)?;
            left.extend(on_node(node, &live)?.into_iter().map(|line| format!("{}: {line}", node.name())));
            everywhere.extend(live);
        }
        if all_on {
            left.extend(self.addresses_of_the_gone(&everywhere)?);
        }
        Ok(left)
    }

    /// Handles and allocations of sandboxes that no node has.
    fn addresses_of_the_gone(&self, live: &BTreeSet<String>) -> Result<Vec<String>> {
        let gone = |handle: &str| handle.strip_prefix("k8s-pod-network.").is_some_and(|id| !live.contains(id));
        let mut left = Vec::new();
        for handle in self.resources("ipamhandles")? {
            let name = handle["metadata"]["name"].as_str().unwrap_or_default();
            if gone(name) {
                left.push(format!("handle {name}"));
            }
        }
        for block in self.resources("ipamblocks")? {
            let given = block["spec"]["attributes"].as_array().into_iter().flatten();
            let handles = given.filter_map(|attribute| attribute["handle_id"].as_str());
            left.extend(
                handles.filter(|h| gone(h)).map(|h| format!("address of {h} in block {}", block["spec"]["cidr"])),
            );
        }
        Ok(left)
    }

    /// Calico's blocks with the node that each belongs to, in order.
    pub fn blocks(&self) -> Result<Vec<(String, String)>> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut blocks: Vec<(String, String)> = self
            .resources("ipamblocks")?
            .iter()
            .filter(|block| block["spec"]["deleted"] != true)
            .map(|block| (text(&block["spec"]["cidr"]), text(&block["spec"]["affinity"])))
            .collect();
        blocks.sort();
        Ok(blocks)
    }

    fn resources(&self, plural: &str) -> Result<Vec<Value>> {
        Ok(self.client.list(&format!("{GROUP}/{plural}"))?)
    }
}

/// Ids of the ready sandboxes with a network namespace of their own.
fn live_sandboxes(node: &dyn Node) -> Result<BTreeSet<String>> {
    let cri = node.cri()?;
    let mut ids = BTreeSet::new();
    for sandbox in cri.list_pod_sandbox()?.into_iter().filter(|s| s.state() == PodSandboxState::SandboxReady) {
        if cri.sandbox_netns(&sandbox.id)?.is_some() {
            ids.insert(sandbox.id);
        }
    }
    Ok(ids)
}

/// What a node has of sandboxes that are not among these.
fn on_node(node: &dyn Node, live: &BTreeSet<String>) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for folder in FOLDERS {
        for entry in std::fs::read_dir(node.path(folder)?).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if belongs_to_the_gone(&entry.path(), &name, live) {
                left.push(format!("{folder}/{name}"));
            }
        }
    }
    let interfaces =
        node.sh("ip -o link | awk -F': ' '{split($2,a,\"@\"); print a[1]}' | grep -E '^(veth|cali)' || true")?;
    let interfaces: Vec<&str> = interfaces.lines().collect();
    if interfaces.len() > live.len() {
        left.push(format!("{} host interfaces of {} pods: {}", interfaces.len(), live.len(), interfaces.join(" ")));
    }
    let rules = node.sh("iptables-nft-save -t nat")?;
    for line in rules.lines().filter(|line| line.contains("CNI-DN-") && line.contains(" id: ")) {
        if !live.iter().any(|id| line.contains(id.as_str())) {
            left.push(format!("rule {line}"));
        }
    }
    let declared =
        rules.lines().filter_map(|line| line.strip_prefix(":CNI-DN-")).filter_map(|rest| rest.split(' ').next());
    for chain in declared {
        if !rules.contains(&format!("-j CNI-DN-{chain}")) {
            left.push(format!("chain CNI-DN-{chain}"));
        }
    }
    Ok(left)
}

/// Files of the allocator that are no leases.
fn is_bookkeeping(name: &str) -> bool {
    name == "lock" || name.starts_with("last_reserved_ip") || name.ends_with(".lock")
}

fn belongs_to_the_gone(path: &Path, name: &str, live: &BTreeSet<String>) -> bool {
    if is_bookkeeping(name) || path.is_dir() || live.iter().any(|id| name.contains(id.as_str())) {
        return false;
    }
    let text = std::fs::read_to_string(path).unwrap_or_default();
    !text.lines().next().is_some_and(|line| live.contains(line.trim()))
}
