//! The Node: registered, kept alive, Ready as the runtime says.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};

use super::Kubelet;
use crate::client::{Client, Patch};

/// Looks at the runtime and reports, in a thread of its own. The lease has another: a runtime that is slow to answer does not
/// make a node lost.
pub fn start(kubelet: &Arc<Kubelet>) {
    let alive = Arc::clone(kubelet);
    std::thread::spawn(move || {
        loop {
            if let Some(client) = &alive.client
                && let Err(error) = renew_lease(client, &alive.options.node)
            {
                eprintln!("kubelet: the lease could not be renewed: {error:#}");
            }
            std::thread::sleep(alive.options.status_period);
        }
    });
    let kubelet = Arc::clone(kubelet);
    std::thread::spawn(move || {
        let mut reporter = Reporter { registered: false, last: None, since: now() };
        loop {
            let problem = look(&kubelet);
            if let Some(client) = &kubelet.client
                && let Err(error) = reporter.report(&kubelet, client, problem.as_deref())
            {
                eprintln!("kubelet: the Node could not be updated: {error:#}");
            }
            std::thread::sleep(kubelet.options.runtime_poll);
        }
    });
}

/// Asks the runtime; answers why the node is not ready.
fn look(kubelet: &Kubelet) -> Option<String> {
    let conditions = match kubelet.cri.conditions() {
        Ok(conditions) => conditions,
        Err(error) => {
            let problem = format!("container runtime is down: {error:#}");
            kubelet.set_network_problem(Some(problem.clone()));
            return Some(problem);
        }
    };
    let problem_of = |kind: &str| match conditions.iter().find(|condition| condition.r#type == kind) {
        Some(condition) if condition.status => None,
        Some(condition) => Some(format!("{kind}=false reason:{} message:{}", condition.reason, condition.message)),
        None => Some(format!("{kind} is not reported")),
    };
    let network = problem_of("NetworkReady");
    kubelet.set_network_problem(network.clone());
    problem_of("RuntimeReady")
        .map(|problem| format!("container runtime is not ready: {problem}"))
        .or_else(|| network.map(|problem| format!("container runtime network not ready: {problem}")))
}

/// What was reported last.
struct Reporter {
    registered: bool,
    last: Option<(Option<String>, Instant)>,
    since: String,
}

impl Reporter {
    /// Registers, then reports on a change and from time to time without one.
    fn report(&mut self, kubelet: &Kubelet, client: &Client, problem: Option<&str>) -> Result<()> {
        let path = format!("/api/v1/nodes/{}", kubelet.options.node);
        if !self.registered {
            if client.find(&path)?.is_none() {
                client.create("/api/v1/nodes", &new_node(&kubelet.options.node))?;
            }
            self.registered = true;
        }
        let changed = self.last.as_ref().is_none_or(|(last, _)| last.as_deref() != problem);
        let due = self.last.as_ref().is_none_or(|(_, when)| when.elapsed() >= kubelet.options.status_period);
        if !changed && !due {
            return Ok(());
        }
        if self.last.as_ref().is_none_or(|(last, _)| last.is_some() != problem.is_some()) {
            self.since = now();
        }
        // A strategic patch merges conditions by type: NetworkUnavailable belongs to others and stays.
        client.patch(&format!("{path}/status"), Patch::Strategic, &status(kubelet, problem, &self.since))?;
        self.last = Some((problem.map(str::to_owned), Instant::now()));
        Ok(())
    }
}

/// The Node as a kubelet registers itself.
fn new_node(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "amd64",
        }},
    })
}

/// The status patch.
fn status(kubelet: &Kubelet, problem: Option<&str>, since: &str) -> Value {
    let heartbeat = now();
    let condition = |kind: &str, status: &str, reason: &str, message: &str, since: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": heartbeat, "lastTransitionTime": since})
    };
    let ready = match problem {
        None => condition("Ready", "True", "KubeletReady", "kubelet is posting ready status", since),
        Some(problem) => condition("Ready", "False", "KubeletNotReady", problem, since),
    };
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({"status": {
        "addresses": addresses(kubelet),
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available", since),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure", since),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available", since),
            ready,
        ],
        "capacity": {"pods": "110", "cpu": "2", "memory": "4Gi"},
        "allocatable": {"pods": "110", "cpu": "2", "memory": "4Gi"},
        "nodeInfo": {
            "bootID": boot_id.trim(), "kernelVersion": kernel.trim(), "kubeletVersion": "v1.31.0-lab", "kubeProxyVersion": "v1.31.0-lab",
            "containerRuntimeVersion": "containerd://1.6.20-lab", "osImage": "nodectl-lab", "operatingSystem": "linux", "architecture": "amd64",
            "machineID": "", "systemUUID": "",
        },
    }})
}

/// The node's addresses. Two of one type cannot be merged by their type: then the list is replaced, as the real kubelet does.
fn addresses(kubelet: &Kubelet) -> Vec<Value> {
    let options = &kubelet.options;
    let internal = |address: &IpAddr| json!({"type": "InternalIP", "address": address.to_string()});
    let host = json!({"type": "Hostname", "address": options.node});
    match &options.second_address {
        None => vec![internal(&options.address), host],
        Some(second) => vec![json!({"$patch": "replace"}), internal(&options.address), internal(second), host],
    }
}

/// Renews the node's lease, by which controllers see that it lives.
fn renew_lease(client: &Client, node: &str) -> Result<()> {
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    let spec = json!({"spec": {"holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": time}});
    let renewed = client.patch(&format!("{leases}/{node}"), Patch::Merge, &spec);
    if renewed.as_ref().is_err_and(|error| error.not_found()) {
        let mut lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": node, "namespace": "kube-node-lease"}});
        lease["spec"] = spec["spec"].clone();
        client.create(leases, &lease)?;
        return Ok(());
    }
    renewed?;
    Ok(())
}

/// Now, as the API writes times.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
