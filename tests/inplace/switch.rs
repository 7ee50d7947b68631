//! A node goes to Calico and back while its pods run: same pods, same addresses, not a datagram lost; killed half way, it goes on
//! or comes back, and the pods have not noticed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use nodectl_lab::cluster::is_ready;
use nodectl_lab::scenario::crash::Sample;
use nodectl_lab::scenario::{Cni, Scenario};
use nodectl_lab::traffic::{Endpoint, Traffic};
use serde_json::Value;

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn in_place(to: &str) -> Vec<&str> {
    Scenario::switch_args(to, &["--strategy", "in-place"])
}

/// Switches the node, or takes it back, while its pods run; what the report says of what they have missed.
#[track_caller]
fn switched(scenario: &Scenario, args: &[&str]) -> Value {
    let args = [args, &["--output", "json"]].concat();
    let done = scenario.nodectl(1, &args).unwrap().expect(0).unwrap();
    let report = done.json().unwrap();
    println!("{}: {}", report["sentence"], report["measured"]);
    let steps = report["steps"].as_array().unwrap();
    let judged = steps.iter().find(|step| step["step"] == "judge-outage").expect("the pods were watched");
    judged["result"].clone()
}

const BACK: [&str; 4] = ["revert", "--yes", "--strategy", "in-place"];
const BACK_AGAIN: [&str; 6] = ["migrate", "--to", "flannel", "--yes", "--strategy", "in-place"];

/// Name, address and container of each pod by uid.
fn identities(scenario: &Scenario) -> BTreeMap<String, (String, String, String)> {
    let pods = scenario.pods().unwrap();
    let of = |pod: &Value| {
        let container = text(&pod["status"]["containerStatuses"][0]["containerID"]);
        (text(&pod["metadata"]["uid"]), (text(&pod["metadata"]["name"]), text(&pod["status"]["podIP"]), container))
    };
    pods.iter().map(of).collect()
}

/// Each way: pods of the node among themselves, with the other node's, with both hosts; the port of the node.
fn pairs(scenario: &Scenario) -> Vec<(Endpoint, Endpoint)> {
    let pods = scenario.pods().unwrap();
    let on = |node: &str| -> Vec<Endpoint> {
        let here = pods.iter().filter(|pod| is_ready(pod) && pod["spec"]["nodeName"] == node);
        here.map(|pod| Endpoint::Pod(text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]))).collect()
    };
    let (own, others) = (on("node1"), on("node2"));
    assert!(own.len() >= 2 && !others.is_empty(), "{own:?} {others:?}");
    let mut pairs = Vec::new();
    for pod in &own {
        pairs.extend(own.iter().filter(|other| *other != pod).map(|other| (pod.clone(), other.clone())));
        for other in &others {
            pairs.extend([(pod.clone(), other.clone()), (other.clone(), pod.clone())]);
        }
        pairs.extend(["host:node1", "host:node2"].map(|host| (Endpoint::parse(host), pod.clone())));
    }
    pairs
}

#[track_caller]
fn nothing_lost(traffic: Traffic) {
    let flows = traffic.finish();
    let lost: Vec<String> = flows.iter().filter(|flow| flow.lost > 0).map(ToString::to_string).collect();
    println!("{} datagrams, {} flows", flows.iter().map(|flow| flow.sent).sum::<u64>(), flows.len());
    assert!(lost.is_empty(), "{}", lost.join("\n"));
}

#[test]
fn a_node_goes_there_and_back_while_its_pods_run() {
    let scenario = Scenario::start(2, &Scenario::workloads(4), |_| {}).unwrap();
    scenario.prepare().unwrap();
    let before = identities(&scenario);
    let traffic = Traffic::start(&scenario.cluster, &pairs(&scenario), 50).unwrap();
    println!("{}", switched(&scenario, &in_place("calico")));
    scenario.must_be_on(1, Cni::Calico).unwrap();
    assert_eq!(identities(&scenario), before);
    scenario.must_be_whole().unwrap();
    // The pods remember the MAC of a bridge that will be another one.
    scenario.node(1).unwrap().sh("ip link del cni0").unwrap();
    println!("{}", switched(&scenario, &BACK));
    nothing_lost(traffic);
    scenario.must_be_on(1, Cni::Flannel).unwrap();
    assert_eq!(identities(&scenario), before);
    scenario.must_be_whole().unwrap();
    // They are flannel's again: deleted, they leave nothing on either side.
    scenario.spread_pods().unwrap();
    scenario.must_be_settled(1, Cni::Flannel).unwrap();
    assert_eq!(scenario.strays(1).unwrap(), Vec::<String>::new());
}

#[test]
fn pods_of_either_network_leave_nothing_when_they_are_deleted() {
    let scenario = Scenario::start(2, &Scenario::workloads(4), |_| {}).unwrap();
    scenario.prepare().unwrap();
    scenario.nodectl(1, &in_place("calico")).unwrap().expect(0).unwrap();
    // Calico's by now: deleted, they leave nothing on either side. The new ones are Calico's own.
    scenario.spread_pods().unwrap();
    scenario.must_be_settled(1, Cni::Calico).unwrap();
    let before = identities(&scenario);
    let traffic = Traffic::start(&scenario.cluster, &pairs(&scenario), 50).unwrap();
    println!("{}", switched(&scenario, &BACK));
    nothing_lost(traffic);
    assert_eq!(identities(&scenario), before);
    scenario.must_be_on(1, Cni::Flannel).unwrap();
    scenario.must_be_whole().unwrap();
    scenario.spread_pods().unwrap();
    scenario.must_be_settled(1, Cni::Flannel).unwrap();
    assert_eq!(scenario.strays(1).unwrap(), Vec::<String>::new());
}

/// As before Linux 6.2: a device is renamed only while it is down. Pods take the detour and lose nothing; what crosses the overlay
/// while its device is down is lost.
#[test]
fn a_kernel_that_renames_only_what_is_down_loses_nothing_on_the_node() {
    const OLD: [(&str, &str); 1] = [("NODECTL_FAULT_RENAMES", "1")];
    let scenario = Scenario::start(2, &Scenario::workloads(4), |_| {}).unwrap();
    scenario.prepare().unwrap();
    let before = identities(&scenario);
    let traffic = Traffic::start(&scenario.cluster, &pairs(&scenario), 50).unwrap();
    let plan = scenario.nodectl_with(1, &["plan", "--strategy", "in-place"], &OLD).unwrap().expect(0).unwrap();
    assert!(plan.all().contains("other nodes: out of reach for some milliseconds"), "{}", plan.all());
    scenario.nodectl_with(1, &in_place("calico"), &OLD).unwrap().expect(0).unwrap();
    scenario.must_be_on(1, Cni::Calico).unwrap();
    scenario.nodectl_with(1, &BACK, &OLD).unwrap().expect(0).unwrap();
    let flows = traffic.finish();
    let pods = scenario.pods().unwrap();
    let node_of = |end: &Endpoint| match end {
        Endpoint::Pod(_, name) => {
            let pod = pods.iter().find(|pod| pod["metadata"]["name"] == name.as_str()).unwrap();
            text(&pod["spec"]["nodeName"])
        }
        host => host.to_string().trim_start_matches("host:").to_owned(),
    };
    let (own, across): (Vec<_>, Vec<_>) = flows.iter().partition(|flow| node_of(&flow.source) == node_of(&flow.target));
    let lost: Vec<String> = own.iter().filter(|flow| flow.lost > 0).map(ToString::to_string).collect();
    assert!(!own.is_empty() && lost.is_empty(), "{}", lost.join("\n"));
    let gap = across.iter().map(|flow| flow.longest_gap).max().unwrap();
    println!("{} flows across the overlay, longest gap {gap:?}", across.len());
    assert!(gap < Duration::from_secs(2), "{gap:?}");
    assert_eq!(identities(&scenario), before);
    scenario.must_be_on(1, Cni::Flannel).unwrap();
    scenario.must_be_whole().unwrap();
}

/// Killed at places drawn from the whole of a switch, and then by turns taken back and finished.
#[test]
fn killed_anywhere_it_comes_back_or_goes_on_and_no_pod_notices() {
    let scenario = Scenario::start(2, &Scenario::workloads(3), |_| {}).unwrap();
    scenario.prepare().unwrap();
    let before = identities(&scenario);
    let traffic = Traffic::start(&scenario.cluster, &pairs(&scenario), 20).unwrap();
    let there = in_place("calico");
    let points = |args: &[&str]| scenario.fault_points(1, |env| scenario.nodectl_with(1, args, env)).unwrap().len();
    let (forth, back) = (points(&there), points(&BACK));
    println!("{forth} places on the way there, {back} on the way back");
    let mut sample = Sample::from_environment();
    let ended = |cni: Cni, what: &str| {
        scenario.must_be_on(1, cni).unwrap();
        assert_eq!(identities(&scenario), before, "{what}");
        let rules = scenario.node(1).unwrap().sh("ip rule").unwrap();
        assert!(!rules.contains("28271"), "{what}: {rules}");
    };
    for (round, (at, then)) in sample.of(forth, 4).into_iter().zip(sample.of(back, 4)).enumerate() {
        let died = scenario.dies_at(1, &there, &at.to_string()).unwrap();
        println!("round {round}: killed {died} at {at} of {forth}");
        if died && round % 2 == 0 {
            scenario.nodectl(1, &["revert", "--yes"]).unwrap().expect(0).unwrap();
            ended(Cni::Flannel, &format!("taken back after {at}"));
            scenario.nodectl(1, &there).unwrap().expect(0).unwrap();
        } else if died {
            scenario.nodectl(1, &["resume", "--yes"]).unwrap().expect(0).unwrap();
        }
        ended(Cni::Calico, &format!("there after {at}"));
        let died = scenario.dies_at(1, &BACK, &then.to_string()).unwrap();
        println!("round {round}: killed {died} at {then} of {back} on the way back");
        if died && round % 2 == 0 {
            scenario.nodectl(1, &["resume", "--yes"]).unwrap().expect(0).unwrap();
        } else if died {
            scenario.nodectl(1, &["revert", "--yes"]).unwrap().expect(0).unwrap();
            ended(Cni::Calico, &format!("back there after {then}"));
            scenario.nodectl(1, &BACK_AGAIN).unwrap().expect(0).unwrap();
        }
        ended(Cni::Flannel, &format!("back after {then}"));
    }
    nothing_lost(traffic);
    scenario.must_be_whole().unwrap();
    scenario.spread_pods().unwrap();
    scenario.must_be_settled(1, Cni::Flannel).unwrap();
    assert_eq!(scenario.strays(1).unwrap(), Vec::<String>::new());
}
