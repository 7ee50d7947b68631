//! Switches in place: how they are asked for, and what their pods must not have noticed.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Scenario;
use crate::cluster::is_ready;
use crate::traffic::{Endpoint, Flow, Traffic};

/// Takes a closed run back in place.
pub const BACK: [&str; 4] = ["revert", "--yes", "--strategy", "in-place"];
/// Back to flannel, whatever the last run was.
pub const BACK_AGAIN: [&str; 6] = ["migrate", "--to", "flannel", "--yes", "--strategy", "in-place"];

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The arguments of a switch in place to this CNI.
pub fn in_place(to: &str) -> Vec<&str> {
    Scenario::switch_args(to, &["--strategy", "in-place"])
}

impl Scenario {
    /// Switches node 1, or takes it back, while its pods run; what the report says of what they have missed.
    pub fn switched_in_place(&self, args: &[&str]) -> Result<Value> {
        let args = [args, &["--output", "json"]].concat();
        let report = self.nodectl(1, &args)?.expect(0)?.json()?;
        let steps = report["steps"].as_array().context("the report has no steps")?;
        let judged = steps.iter().find(|step| step["step"] == "judge-outage").context("the pods were not watched")?;
        println!("{}: {}", text(&report["sentence"]), judged["result"]);
        Ok(judged["result"].clone())
    }

    /// Name, address and first container of each pod of the workloads, by uid.
    pub fn identities(&self) -> Result<BTreeMap<String, [String; 3]>> {
        let of = |pod: &Value| {
            let container = text(&pod["status"]["containerStatuses"][0]["containerID"]);
            let (name, ip) = (text(&pod["metadata"]["name"]), text(&pod["status"]["podIP"]));
            (text(&pod["metadata"]["uid"]), [name, ip, container])
        };
        Ok(self.pods()?.iter().map(of).collect())
    }

    /// The workloads' ready pods on a node.
    pub fn endpoints_on(&self, node: &str) -> Result<Vec<Endpoint>> {
        let pods = self.pods()?;
        let here = pods.iter().filter(|pod| is_ready(pod) && pod["spec"]["nodeName"] == node);
        Ok(here.map(|pod| Endpoint::Pod(text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]))).collect())
    }

    /// Each way: node 1's pods among themselves and with node 2's; from both hosts to them; from node 2 to their ports of node 1.
    pub fn pairs_in_place(&self) -> Result<Vec<(Endpoint, Endpoint)>> {
        let (own, others) = (self.endpoints_on("node1")?, self.endpoints_on("node2")?);
        ensure!(own.len() >= 2 && !others.is_empty(), "too few pods: {own:?} {others:?}");
        let mut pairs = Vec::new();
        for pod in &own {
            pairs.extend(own.iter().filter(|other| *other != pod).map(|other| (pod.clone(), other.clone())));
            for other in &others {
                pairs.extend([(pod.clone(), other.clone()), (other.clone(), pod.clone())]);
            }
            pairs.extend(["host:node1", "host:node2"].map(|host| (Endpoint::parse(host), pod.clone())));
        }
        let ports = self.ports_of("node1")?;
        let from = [Some(Endpoint::parse("host:node2")), others.first().cloned()];
        pairs
            .extend(from.into_iter().flatten().flat_map(|from| ports.iter().map(move |to| (from.clone(), to.clone()))));
        Ok(pairs)
    }
}

/// Ends the traffic; an error with each flow that has lost a datagram.
pub fn nothing_lost(traffic: Traffic) -> Result<()> {
    let flows = traffic.finish();
    println!("{} datagrams, {} flows", flows.iter().map(|flow| flow.sent).sum::<u64>(), flows.len());
    let lost: Vec<String> = flows.iter().filter(|flow| flow.lost > 0).map(Flow::to_string).collect();
    if !lost.is_empty() {
        bail!("datagrams were lost: {}", lost.join("\n"));
    }
    Ok(())
}
