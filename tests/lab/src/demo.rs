//! The demonstration: three nodes moved from flannel to Calico one by one under traffic, and one of them moved back.

use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::objects::{Manifest, workloads};
use crate::scenario::{Cni, Scenario};
use crate::snapshot::Snapshot;
use crate::traffic::{Endpoint, Flow, Traffic, matrix};

/// Datagrams a second between each pair of nodes.
const RATE: u32 = 50;

/// The program `demo`.
pub fn main(_arguments: &[String]) -> Result<ExitCode> {
    let begun = Instant::now();
    heading("Three nodes on flannel, ten pods a node");
    let scenario = Scenario::start(3, &pods(), |_| {})?;
    show_nodes(&scenario)?;
    show_pods(&scenario)?;

    heading("nodectl cluster prepare");
    print!("{}", indented(&scenario.prepare()?.stdout));

    let traffic = Traffic::start(&scenario.cluster, &pairs(&scenario)?, RATE)?;
    let before: Vec<Snapshot> = snapshots(&scenario)?;
    for index in 1..=3 {
        heading(&format!("node{index}: nodectl migrate --to calico"));
        switch(&scenario, index, &["migrate", "--to", "calico", "--yes"])?;
        scenario.must_be_on(index, Cni::Calico)?;
        check_pairs(&scenario)?;
    }
    heading("nodectl cluster status");
    print!("{}", indented(&scenario.cluster_command(&["status"])?.stdout));

    heading("node2: nodectl revert");
    switch(&scenario, 2, &["revert", "--yes"])?;
    scenario.must_be_on(2, Cni::Flannel)?;
    check_pairs(&scenario)?;

    heading("Traffic between the nodes' pods, over all four switches");
    show_flows(&traffic.finish());
    heading("What is left behind on node2");
    left_behind(&scenario, &before[1])?;
    println!("\nDone in {} s. Nothing of it is left on this machine.", begun.elapsed().as_secs());
    Ok(ExitCode::SUCCESS)
}

/// Thirty pods: the usual workloads and one more Deployment.
fn pods() -> Vec<Manifest> {
    let mut all = Scenario::workloads(15);
    all.push(workloads::deployment("api", 8));
    all
}

/// Runs nodectl on a node, its progress shown as it comes.
fn switch(scenario: &Scenario, index: usize, args: &[&str]) -> Result<()> {
    let mut command = scenario.nodectl_command(index, args, &[])?;
    let status = command.stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(Stdio::inherit()).status();
    let status = status.context("nodectl could not be started")?;
    if !status.success() {
        bail!("nodectl {} failed on node{index} with {status}", args.join(" "));
    }
    Ok(())
}

/// Every pair of the probe's pods, which a drain does not move.
fn pairs(scenario: &Scenario) -> Result<Vec<(Endpoint, Endpoint)>> {
    let pods = scenario.pods()?;
    let probes: Vec<Endpoint> = pods
        .iter()
        .filter_map(|pod| pod["metadata"]["name"].as_str().filter(|name| name.starts_with("probe-")))
        .map(|name| Endpoint::Pod("default".into(), name.into()))
        .collect();
    let mut pairs = Vec::new();
    for source in &probes {
        pairs.extend(probes.iter().filter(|target| *target != source).map(|target| (source.clone(), target.clone())));
    }
    Ok(pairs)
}

/// All pods of all nodes reach each other, and see each other's own addresses.
fn check_pairs(scenario: &Scenario) -> Result<()> {
    let mut count = 0;
    crate::cluster::readiness::until(Duration::from_secs(60), || {
        let pairs = matrix(&scenario.cluster)?;
        count = pairs.len();
        let broken = pairs.iter().filter(|pair| !pair.is_whole()).count();
        Ok((broken > 0 || count == 0).then(|| format!("{broken} of {count} pairs of pods do not reach each other")))
    })?;
    println!("\n  all {count} pairs of pods reach each other, each seen with its own address");
    Ok(())
}

fn snapshots(scenario: &Scenario) -> Result<Vec<Snapshot>> {
    scenario.cluster.nodes().map(Snapshot::take).collect()
}

/// What differs on a node that has been to Calico and back, from before.
fn left_behind(scenario: &Scenario, before: &Snapshot) -> Result<()> {
    let after = Snapshot::take(scenario.node(2)?)?;
    // The shim stays in front; its configuration names both CNIs. Logs stay, to be read.
    let stays = |line: &String| line.contains("00-cni-shim") || line.contains("/var/log/calico");
    let calicos = |line: &String| line.to_lowercase().contains("cali") && !stays(line);
    let foreign: Vec<String> = before.diff(&after).into_iter().filter(calicos).collect();
    if !foreign.is_empty() {
        bail!("Calico has left something behind: {}", foreign.join("; "));
    }
    println!("  no link, route, rule, chain, set or file of Calico");
    Ok(())
}

fn show_nodes(scenario: &Scenario) -> Result<()> {
    println!("  {:<8} {:<16} {:<16} OVERLAY", "NODE", "ADDRESS", "POD CIDR");
    for node in scenario.cluster.nodes() {
        let object = scenario.node_object(usize::from(node.index()))?;
        let mac = node.sh("cat /sys/class/net/flannel.1/address")?;
        let cidr = object["spec"]["podCIDR"].as_str().unwrap_or_default().to_owned();
        println!("  {:<8} {:<16} {cidr:<16} flannel.1 {}", node.name(), node.address().to_string(), mac.trim());
    }
    Ok(())
}

fn show_pods(scenario: &Scenario) -> Result<()> {
    let pods = scenario.pods()?;
    println!("\n  {:<24} {:<8} ADDRESS", "POD", "NODE");
    let mut lines: Vec<(String, String, String)> = pods.iter().map(row).collect();
    lines.sort();
    for (node, name, ip) in lines {
        println!("  {name:<24} {node:<8} {ip}");
    }
    Ok(())
}

fn row(pod: &Value) -> (String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&pod["spec"]["nodeName"]), text(&pod["metadata"]["name"]), text(&pod["status"]["podIP"]))
}

fn show_flows(flows: &[Flow]) {
    println!("  {:<36} {:>7} {:>6}   LONGEST GAP", "PAIR", "SENT", "LOST");
    for flow in flows {
        let pair = format!("{} -> {}", flow.source, flow.target);
        println!("  {pair:<36} {:>7} {:>6}   {:.1} s", flow.sent, flow.lost, flow.longest_gap.as_secs_f64());
    }
    println!(
        "\n  With strategy drain a pod that stays on its node is rebuilt once per switch; the gaps are that rebuilding."
    );
}

fn heading(text: &str) {
    println!("\n=== {text}\n");
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
