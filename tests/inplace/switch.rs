//! A node goes to Calico and back while its pods run: same pods, same addresses, not a datagram lost; killed half way, it goes on
//! or comes back, and the pods have not noticed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Read;
use std::time::Duration;

use nix::sys::signal::Signal;
use nodectl_lab::node::Running;
use nodectl_lab::objects::workloads;
use nodectl_lab::scenario::crash::Sample;
use nodectl_lab::scenario::in_place::{BACK, BACK_AGAIN, in_place, nothing_lost};
use nodectl_lab::scenario::{Cni, Scenario, full};
use nodectl_lab::traffic::{Endpoint, Traffic};
use serde_json::Value;

/// Asks a port of node 1 from node 2's host, with a new connection each time, until it is ended.
fn connects(scenario: &Scenario, port: u16) -> Running {
    let target = format!("connect:{}:{port}", scenario.node(1).unwrap().address());
    let args = ["nodectl", "probe", "--to", &target, "--rate", "20", "--duration", "3600", "--output", "json"];
    scenario.node(2).unwrap().spawn(&args).unwrap()
}

/// Ends it; what it has counted.
fn connected(mut probe: Running) -> Value {
    probe.signal(Signal::SIGINT);
    let mut text = String::new();
    probe.child().stdout.take().unwrap().read_to_string(&mut text).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["flows"][0].clone()
}

#[test]
fn a_node_goes_there_and_back_while_its_pods_run() {
    let mut workloads = Scenario::workloads(4);
    workloads.push(workloads::daemon_with_port("edge", 8081));
    let scenario = Scenario::start(2, &workloads, |_| {}).unwrap();
    scenario.prepare().unwrap();
    let before = scenario.identities().unwrap();
    let pairs = scenario.pairs_in_place().unwrap();
    assert!(pairs.iter().any(|(_, to)| matches!(to, Endpoint::Address(port) if port.port() == 8081)), "{pairs:?}");
    let traffic = Traffic::start(&scenario.cluster, &pairs, 50).unwrap();
    let probe = connects(&scenario, 8081);
    scenario.switched_in_place(&in_place("calico")).unwrap();
    scenario.must_be_on(1, Cni::Calico).unwrap();
    assert_eq!(scenario.identities().unwrap(), before);
    scenario.must_be_whole().unwrap();
    // The bridge has no ports any more; nobody misses it, and the pods remember the MAC of one that will be another.
    let node = scenario.node(1).unwrap();
    assert!(node.sh("ip -o link show master cni0; ip -o link show cni0").unwrap().lines().count() == 1);
    scenario.nodectl(1, &["cleanup", "--flannel", "--yes"]).unwrap().expect(0).unwrap();
    assert!(!node.sh("ip -o link").unwrap().contains("cni0"));
    scenario.switched_in_place(&BACK).unwrap();
    nothing_lost(traffic).unwrap();
    let connections = connected(probe);
    println!("{connections}");
    assert!(connections["sent"].as_u64().unwrap() > 100 && connections["lost"] == 0, "{connections}");
    scenario.must_be_on(1, Cni::Flannel).unwrap();
    assert_eq!(scenario.identities().unwrap(), before);
    scenario.must_be_whole().unwrap();
    // They are flannel's again: deleted, they leave nothing on either side.
    scenario.spread_pods().unwrap();
    scenario.must_be_settled(1, Cni::Flannel).unwrap();
    assert_eq!(scenario.strays(1).unwrap(), Vec::<String>::new());
}

/// nodectl stands still for a while before every step (by default before every third): what has been done so far carries.
#[test]
fn held_at_any_step_the_node_forwards() {
    let scenario = Scenario::start(2, &Scenario::workloads(3), |_| {}).unwrap();
    scenario.prepare().unwrap();
    let before = scenario.identities().unwrap();
    let traffic = Traffic::start(&scenario.cluster, &scenario.pairs_in_place().unwrap(), 20).unwrap();
    let every = if full() { 1 } else { 3 };
    for (args, cni) in [(in_place("calico"), Cni::Calico), (BACK.to_vec(), Cni::Flannel)] {
        let mut run = scenario.drive(1, &args).unwrap();
        let (mut steps, mut held) = (0, 0);
        while run.next("step").unwrap().is_some() {
            steps += 1;
            if steps % every == 0 {
                run.pause().unwrap();
                std::thread::sleep(Duration::from_millis(400));
                run.go_on().unwrap();
                held += 1;
            }
        }
        run.finish().unwrap().expect(0).unwrap();
        println!("to {}: held before {held} of {steps} steps", cni.name());
        assert!(held > 10, "{held}");
        scenario.must_be_on(1, cni).unwrap();
    }
    nothing_lost(traffic).unwrap();
    assert_eq!(scenario.identities().unwrap(), before);
    scenario.must_be_whole().unwrap();
}

/// As before Linux 6.2: a device is renamed only while it is down. Pods take the detour and lose nothing; what crosses the overlay
/// while its device is down is lost.
#[test]
fn a_kernel_that_renames_only_what_is_down_loses_nothing_on_the_node() {
    const OLD: [(&str, &str); 1] = [("NODECTL_FAULT_RENAMES", "1")];
    let scenario = Scenario::start(2, &Scenario::workloads(4), |_| {}).unwrap();
    scenario.prepare().unwrap();
    let before = scenario.identities().unwrap();
    let traffic = Traffic::start(&scenario.cluster, &scenario.pairs_in_place().unwrap(), 50).unwrap();
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
            pod["spec"]["nodeName"].as_str().unwrap().to_owned()
        }
        host => host.to_string().trim_start_matches("host:").to_owned(),
    };
    let (own, across): (Vec<_>, Vec<_>) = flows.iter().partition(|flow| node_of(&flow.source) == node_of(&flow.target));
    let lost: Vec<String> = own.iter().filter(|flow| flow.lost > 0).map(ToString::to_string).collect();
    assert!(!own.is_empty() && lost.is_empty(), "{}", lost.join("\n"));
    let gap = across.iter().map(|flow| flow.longest_gap).max().unwrap();
    println!("{} flows across the overlay, longest gap {gap:?}", across.len());
    assert!(gap < Duration::from_secs(2), "{gap:?}");
    assert_eq!(scenario.identities().unwrap(), before);
    scenario.must_be_on(1, Cni::Flannel).unwrap();
    scenario.must_be_whole().unwrap();
}

/// Killed at places drawn from the whole of a switch, and then by turns taken back and finished: 8 kills, 200 in full.
#[test]
fn killed_anywhere_it_comes_back_or_goes_on_and_no_pod_notices() {
    let scenario = Scenario::start(2, &Scenario::workloads(3), |_| {}).unwrap();
    scenario.prepare().unwrap();
    let before = scenario.identities().unwrap();
    let traffic = Traffic::start(&scenario.cluster, &scenario.pairs_in_place().unwrap(), 20).unwrap();
    let there = in_place("calico");
    let points = |args: &[&str]| scenario.fault_points(1, |env| scenario.nodectl_with(1, args, env)).unwrap().len();
    let (forth, back) = (points(&there), points(&BACK));
    println!("{forth} places on the way there, {back} on the way back");
    let mut sample = Sample::from_environment();
    let ended = |cni: Cni, what: &str| {
        scenario.must_be_on(1, cni).unwrap();
        assert_eq!(scenario.identities().unwrap(), before, "{what}");
        let rules = scenario.node(1).unwrap().sh("ip rule").unwrap();
        assert!(!rules.contains("28271"), "{what}: {rules}");
    };
    // Killed before its run is open, it was no run, and is asked for again; killed after its last record, it has ended.
    let is_at_work = || scenario.is_open(1).unwrap() && !scenario.has_ended(1).unwrap();
    let finish = |args: &[&str]| {
        let resume = ["resume", "--yes"];
        scenario.nodectl(1, if scenario.is_open(1).unwrap() { &resume } else { args }).unwrap().expect(0).unwrap();
    };
    let rounds = if full() { 100 } else { 4 };
    for (round, (at, then)) in sample.spread(forth, rounds).into_iter().zip(sample.spread(back, rounds)).enumerate() {
        let died = scenario.dies_at(1, &there, &at.to_string()).unwrap();
        println!("round {round}: killed {died} at {at} of {forth}");
        if died && round % 2 == 0 && is_at_work() {
            scenario.nodectl(1, &["revert", "--yes"]).unwrap().expect(0).unwrap();
            ended(Cni::Flannel, &format!("taken back after {at}"));
            scenario.nodectl(1, &there).unwrap().expect(0).unwrap();
        } else if died {
            finish(&there);
        }
        ended(Cni::Calico, &format!("there after {at}"));
        let died = scenario.dies_at(1, &BACK, &then.to_string()).unwrap();
        println!("round {round}: killed {died} at {then} of {back} on the way back");
        if died && round % 2 == 1 && is_at_work() {
            scenario.nodectl(1, &["revert", "--yes"]).unwrap().expect(0).unwrap();
            ended(Cni::Calico, &format!("back there after {then}"));
            scenario.nodectl(1, &BACK_AGAIN).unwrap().expect(0).unwrap();
        } else if died {
            finish(&BACK);
        }
        ended(Cni::Flannel, &format!("back after {then}"));
    }
    nothing_lost(traffic).unwrap();
    scenario.must_be_whole().unwrap();
    scenario.spread_pods().unwrap();
    scenario.must_be_settled(1, Cni::Flannel).unwrap();
    assert_eq!(scenario.strays(1).unwrap(), Vec::<String>::new());
}
