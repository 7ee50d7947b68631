//! Whether traffic is whole: every pod reaches every pod under its own address, ports of nodes answer, the service answers.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Scenario;
use crate::cluster::{is_ready, until};
use crate::objects::workloads::ECHO_PORT;
use crate::traffic::{Endpoint, Flow, Pair, matrix_in, matrix_of, netns};

/// How long an agent may take to programme what a new pod needs.
const LIMIT: Duration = Duration::from_secs(60);

/// How a node goes off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Off {
    /// Services are stopped in order.
    Orderly,
    /// At once.
    PowerCut,
}

impl Scenario {
    /// Waits until each Deployment has all its pods, and every pod that should run does. After a node was down, pods may be
    /// gone that nobody has replaced yet.
    pub fn complete(&self) -> Result<()> {
        until(super::PATIENCE, || {
            let pods = self.pods()?;
            for deployment in self.client.list("/apis/apps/v1/namespaces/default/deployments")? {
                let name = &deployment["metadata"]["name"];
                let ready =
                    pods.iter().filter(|pod| is_ready(pod) && pod["metadata"]["labels"]["app"] == *name).count();
                if deployment["spec"]["replicas"] != ready {
                    return Ok(Some(format!("{name} has {ready} of {} pods", deployment["spec"]["replicas"])));
                }
            }
            Ok(None)
        })?;
        self.settled()
    }

    /// Switches a node off and on, and waits until every pod on it has come up anew: the API server says of pods what was true
    /// before, until the node's kubelet tells it otherwise.
    pub fn boot_anew(&self, index: usize, off: Off) -> Result<()> {
        let node = self.node(index)?;
        let begin = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        match off {
            Off::Orderly => node.shutdown()?,
            Off::PowerCut => node.power_cut()?,
        }
        node.start()?;
        let is_of_before = |pod: &&Value| {
            let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
            let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready");
            let since = ready.and_then(|condition| condition["lastTransitionTime"].as_str());
            pod["spec"]["nodeName"] == node.name()
                && (!is_ready(pod) || since.is_none_or(|since| since < begin.as_str()))
        };
        until(super::PATIENCE, || {
            let pods = self.pods()?;
            let names: Vec<&str> =
                pods.iter().filter(is_of_before).filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
            Ok((!names.is_empty()).then(|| format!("pods that have not come up anew: {}", names.join(", "))))
        })
    }

    /// An error unless all pods reach each other, seen with their own addresses, and ports of nodes and the service answer;
    /// how many pairs of pods were asked. In a dual-stack cluster each pair is asked over both families, and counts once.
    pub fn must_be_whole(&self) -> Result<usize> {
        let mut count = 0;
        until(LIMIT, || {
            let mut broken = Vec::new();
            for family in self.cluster.options().families() {
                let pairs = matrix_in(&self.cluster, *family)?;
                count = pairs.len();
                broken.extend(pairs.iter().filter(|pair| !pair.is_whole()).map(show));
            }
            broken.extend(self.silent_host_ports()?);
            broken.extend(self.without_service()?);
            let more = broken.len().saturating_sub(8);
            broken.truncate(8);
            Ok((!broken.is_empty() || count == 0).then(|| {
                format!("of {count} pairs of pods and what else should answer: {}; and {more} more", broken.join("; "))
            }))
        })
        .context("traffic is not whole")?;
        Ok(count)
    }

    /// All pods are there and Ready, traffic is whole, and nothing is left of pods that are gone; else the error names the stage.
    pub fn must_be_whole_and_tidy(&self, stage: &str) -> Result<()> {
        let pairs = self.complete().and_then(|()| self.must_be_whole());
        let pairs =
            pairs.and_then(|pairs| self.must_leave_nothing().map(|()| pairs)).with_context(|| stage.to_owned())?;
        println!("{stage}: {pairs} pairs of pods reach each other, nothing is left of pods that are gone");
        Ok(())
    }

    /// Ports of nodes that do not answer another node's host.
    pub fn silent_host_ports(&self) -> Result<Vec<String>> {
        let mut pairs = Vec::new();
        for node in self.cluster.nodes() {
            let others = self.cluster.nodes().filter(|n| n.name() != node.name() && n.is_on());
            let others: Vec<Endpoint> = others.map(|other| Endpoint::Host(other.name().to_owned())).collect();
            for target in self.ports_of(node.name())? {
                pairs.extend(others.iter().map(|other| (other.clone(), target.clone())));
            }
        }
        Ok(matrix_of(&self.cluster, &pairs)?.iter().filter(|pair| pair.seen.is_none()).map(show).collect())
    }

    /// The ports of a node that its ready pods have.
    pub fn ports_of(&self, node: &str) -> Result<Vec<Endpoint>> {
        let Some(here) = self.cluster.nodes().find(|n| n.name() == node) else { return Ok(Vec::new()) };
        let pods = self.pods()?;
        let ready = pods.iter().filter(|pod| is_ready(pod) && pod["spec"]["nodeName"] == node);
        let address = |port| Endpoint::Address(SocketAddr::new(here.address().into(), port));
        Ok(ready.flat_map(host_ports).map(address).collect())
    }

    /// Pods, one of each node, that do not get through to the API server's service.
    fn without_service(&self) -> Result<Vec<String>> {
        let mut silent = Vec::new();
        for node in self.cluster.nodes().filter(|node| node.is_on()) {
            let Some(pod) =
                self.pods()?.into_iter().find(|pod| is_ready(pod) && pod["spec"]["nodeName"] == node.name())
            else {
                continue;
            };
            let path = netns(node, &pod)?;
            let connect = "timeout 8 bash -c 'exec 3<>/dev/tcp/10.96.0.1/443'";
            let argv = ["/usr/local/bin/nodectl-lab", "enter", "--netns", &path, "--", "sh", "-c", connect];
            if !node.exec(&argv)?.ok() {
                let look = "ip route; ip neigh; iptables-nft-save -c -t nat | grep -E 'MASQ|DNAT|cali-nat|FLANNEL'; ipset list -n";
                let state = node.exec(&["sh", "-c", look])?.stdout;
                let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                silent.push(format!(
                    "{name} ({}) on {} -> 10.96.0.1:443, where\n{state}",
                    pod["status"]["podIP"],
                    node.name()
                ));
            }
        }
        Ok(silent)
    }

    /// Pods that stay on their nodes through a drain (of the DaemonSet, static): (the pod, its node).
    pub fn staying(&self) -> Result<Vec<(Endpoint, String)>> {
        let pods = self.client.list("/api/v1/pods")?;
        let stays = |pod: &&Value| {
            let by = pod["metadata"]["ownerReferences"][0]["kind"].as_str().unwrap_or_default();
            pod["spec"]["hostNetwork"] != true && (by == "DaemonSet" || by == "Node")
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let named = |pod: &Value| Endpoint::Pod(text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
        Ok(pods.iter().filter(stays).map(|pod| (named(pod), text(&pod["spec"]["nodeName"]))).collect())
    }

    /// Every pair of these pods that are on different nodes.
    pub fn pairs_between_nodes(&self) -> Result<Vec<(Endpoint, Endpoint)>> {
        let pods = self.staying()?;
        let away =
            |a: &str| pods.iter().filter(move |(_, b)| b != a).map(|(target, _)| target.clone()).collect::<Vec<_>>();
        Ok(pods.iter().flat_map(|(source, node)| away(node).into_iter().map(|to| (source.clone(), to))).collect())
    }

    /// True where a pod of the name gets answers from one address at least of those of a node's staying pods.
    pub fn reaches(&self, source: &Endpoint, target: &Endpoint) -> Result<bool> {
        let pairs = matrix_of(&self.cluster, &[(source.clone(), target.clone())])?;
        Ok(pairs.iter().all(Pair::is_whole))
    }
}

/// Where the pods of a flow are.
pub fn touches(flow: &Flow, pods: &[(Endpoint, String)], node: &str) -> bool {
    let on = |end: &Endpoint| {
        pods.iter().any(|(pod, place)| pod == end && place == node) || *end == Endpoint::Host(node.to_owned())
    };
    on(&flow.source) || on(&flow.target)
}

/// The UDP ports of its node that a pod has; the probes speak UDP.
fn host_ports(pod: &Value) -> Vec<u16> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    containers
        .flat_map(|container| container["ports"].as_array().into_iter().flatten())
        .filter(|port| port["protocol"] == "UDP" && port["containerPort"] == ECHO_PORT)
        .filter_map(|port| u16::try_from(port["hostPort"].as_u64()?).ok())
        .collect()
}

fn show(pair: &Pair) -> String {
    match &pair.seen {
        None => format!("{} -> {}: no answer", pair.source, pair.target),
        Some(seen) => format!("{} -> {}: seen as {seen}, not as {:?}", pair.source, pair.target, pair.address),
    }
}
