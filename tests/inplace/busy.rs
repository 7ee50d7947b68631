//! A node that is busy: as many packets a second as the machine carries, long TCP streams, 110 pods. With the full counts alone:
//! one run says little where other tests run beside it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Read;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nodectl_lab::node::Running;
use nodectl_lab::objects::workloads;
use nodectl_lab::scenario::in_place::{BACK, BACK_AGAIN, in_place, nothing_lost};
use nodectl_lab::scenario::{Cni, Scenario, full};
use nodectl_lab::traffic::{Endpoint, Traffic, netns};
use serde_json::Value;

const SERVICE: &str = "10.96.0.77:80";
const NODE_PORT: &str = "192.168.77.1:8081";

const RUNS: usize = 10;
const WAYS: [&str; 2] = ["forward", "back"];

/// Two pods of node 1, one of node 2, and their addresses.
struct Ends {
    pods: [Endpoint; 3],
    ips: [String; 3],
}

fn ends(scenario: &Scenario) -> Ends {
    let (own, other) = (scenario.endpoints_on("node1").unwrap(), scenario.endpoints_on("node2").unwrap());
    let pods = [own[0].clone(), own[1].clone(), other[0].clone()];
    let all = scenario.pods().unwrap();
    let ips = pods.clone().map(|end| end.find(&all).unwrap()["status"]["podIP"].as_str().unwrap().to_owned());
    Ends { pods, ips }
}

/// A service in front of node 2's pod, as kube-proxy would have it.
fn make_service(scenario: &Scenario, ends: &Ends) {
    let (ip, port) = SERVICE.split_once(':').unwrap();
    for (chain, protocol) in [("PREROUTING", "udp"), ("PREROUTING", "tcp"), ("OUTPUT", "udp"), ("OUTPUT", "tcp")] {
        let rule = format!("-d {ip} -p {protocol} --dport {port} -j DNAT --to-destination {}:7777", ends.ips[2]);
        scenario.node(1).unwrap().sh(&format!("iptables -w -t nat -A {chain} {rule}")).unwrap();
    }
}

/// One pair of each kind: on the node, to and from another, from the host, to a service, to a port of the node.
fn pairs(ends: &Ends) -> Vec<(Endpoint, Endpoint)> {
    let [a, b, far] = &ends.pods;
    let to = Endpoint::parse;
    vec![
        (a.clone(), b.clone()),
        (a.clone(), far.clone()),
        (far.clone(), a.clone()),
        (to("host:node1"), a.clone()),
        (b.clone(), to(SERVICE)),
        (to("host:node2"), to(NODE_PORT)),
    ]
}

/// TCP connections that stay, along the same ways.
fn streams(scenario: &Scenario, ends: &Ends) -> Vec<Running> {
    let [a, b, far] = &ends.pods.clone().map(|end| format!("default/{end}"));
    let echo = |ip: &str| format!("tcp:{ip}:7777");
    let start = |node: usize, from: &str, to: &[String]| {
        let mut args =
            vec!["nodectl", "probe", "--rate", "200", "--duration", "3600", "--output", "json", "--from", from];
        to.iter().for_each(|target| args.extend(["--to", target.as_str()]));
        scenario.node(node).unwrap().spawn(&args).unwrap()
    };
    vec![
        start(1, a, &[echo(&ends.ips[1]), echo(&ends.ips[2])]),
        start(1, b, &[format!("tcp:{SERVICE}")]),
        start(1, "host", &[echo(&ends.ips[0])]),
        start(2, far, &[echo(&ends.ips[0])]),
        start(2, "host", &[format!("tcp:{NODE_PORT}")]),
    ]
}

/// Ends the streams: connections that broke, and answers.
fn ended(streams: Vec<Running>) -> (u64, u64) {
    let mut sums = (0, 0);
    for mut stream in streams {
        stream.signal(Signal::SIGINT);
        let mut text = String::new();
        stream.child().stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        let flows = document["flows"].as_array().unwrap();
        let sum = |key: &str| flows.iter().map(|flow| flow[key].as_u64().unwrap_or(0)).sum::<u64>();
        sums.0 += sum("breaks");
        sums.1 += sum("answered");
    }
    sums
}

/// Segments that were sent again from the pods so far, and those of them that had arrived all the same, as the far
/// end says in a duplicate SACK (RFC 2883): a busy machine answers late.
fn sent_again(scenario: &Scenario, ends: &Ends) -> [u64; 2] {
    let pods = scenario.pods().unwrap();
    let mut sums = [0, 0];
    for end in &ends.pods {
        let pod = end.find(&pods).unwrap();
        let name = pod["spec"]["nodeName"].as_str().unwrap();
        let node = scenario.cluster.nodes().find(|node| node.name() == name).unwrap();
        let path = netns(node, pod).unwrap();
        let text = node.sh(&format!("nsenter --net={path} cat /proc/net/snmp /proc/net/netstat")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for names in lines.chunks(2) {
            let [names, values] = names else { continue };
            for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
                match name {
                    "RetransSegs" => sums[0] += value.parse::<u64>().unwrap(),
                    "TCPDSACKRecv" | "TCPDSACKOfoRecv" => sums[1] += value.parse::<u64>().unwrap(),
                    _ => {}
                }
            }
        }
    }
    sums
}

fn lost(traffic: Traffic) -> (u64, u64) {
    let flows = traffic.finish();
    flows.iter().filter(|flow| flow.lost > 0).for_each(|flow| println!("  {flow}"));
    (flows.iter().map(|flow| flow.lost).sum(), flows.iter().map(|flow| flow.sent).sum())
}

/// The highest of these rates that is carried for as long as a switch takes, while nothing is switched.
fn rate_of_this_machine(scenario: &Scenario, ends: &Ends) -> u32 {
    for rate in [1000, 500, 250] {
        let traffic = Traffic::start(&scenario.cluster, &pairs(ends), rate).unwrap();
        let (running, before) = (streams(scenario, ends), sent_again(scenario, ends));
        std::thread::sleep(Duration::from_secs(8));
        let ((breaks, _), after) = (ended(running), sent_again(scenario, ends));
        let (lost, sent) = lost(traffic);
        let [again, arrived] = [0, 1].map(|n| after[n] - before[n]);
        println!(
            "control window at {rate}/s: {lost} of {sent} lost, {again} segments again, of which {arrived} needlessly, {breaks} breaks"
        );
        if (lost, again.saturating_sub(arrived), breaks) == (0, 0, 0) {
            return rate;
        }
    }
    100
}

fn middle(values: &[u64]) -> u64 {
    let mut values = values.to_vec();
    values.sort_unstable();
    values[values.len() / 2]
}

#[test]
fn a_thousand_packets_a_second_and_long_streams_lose_nothing_in_the_median_of_ten() {
    if !full() {
        return println!("passed over: with NODECTL_TESTS_FULL=1 alone");
    }
    let mut all = Scenario::workloads(24);
    all.push(workloads::daemon_with_port("edge", 8081));
    all.extend((0..20).map(|n| workloads::bare(&format!("more-{n}"), Some("node1"))));
    let scenario = Scenario::start(3, &all, |_| {}).unwrap();
    scenario.prepare().unwrap();
    let ends = ends(&scenario);
    make_service(&scenario, &ends);
    println!("{} pods on the node", scenario.endpoints_on("node1").unwrap().len());
    let rate = rate_of_this_machine(&scenario, &ends);
    let before = scenario.identities().unwrap();
    let (mut losses, mut agains) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for run in 0..RUNS {
        for (way, args) in [in_place("calico"), BACK_AGAIN.to_vec()].iter().enumerate() {
            let traffic = Traffic::start(&scenario.cluster, &pairs(&ends), rate).unwrap();
            let (running, before) = (streams(&scenario, &ends), sent_again(&scenario, &ends));
            let begun = Instant::now();
            scenario.nodectl(1, args).unwrap().expect(0).unwrap();
            let took = begun.elapsed();
            let ((breaks, answered), after) = (ended(running), sent_again(&scenario, &ends));
            let (lost, sent) = lost(traffic);
            let [again, arrived] = [0, 1].map(|n| after[n] - before[n]);
            println!(
                "{} {run}: {took:.1?}, {lost} of {sent} datagrams lost; of {answered} questions of streams {again} segments were \
                 sent again, {arrived} needlessly",
                WAYS[way]
            );
            let again = again.saturating_sub(arrived);
            assert_eq!(breaks, 0, "connections broke");
            losses[way].push(lost);
            agains[way].push(again);
        }
    }
    for (way, (losses, agains)) in losses.iter().zip(&agains).enumerate() {
        let worst = |values: &[u64]| values.iter().max().copied().unwrap();
        println!("{}, worst: {} datagrams lost, {} segments sent again", WAYS[way], worst(losses), worst(agains));
        assert_eq!((middle(losses), middle(agains)), (0, 0), "{}: {losses:?} {agains:?}", WAYS[way]);
    }
    assert_eq!(scenario.identities().unwrap(), before);
    scenario.must_be_whole().unwrap();
}

#[test]
fn a_node_with_110_pods_goes_there_and_back_in_one_run_each() {
    if !full() {
        return println!("passed over: with NODECTL_TESTS_FULL=1 alone");
    }
    let mut all = vec![workloads::daemon("stays"), workloads::bare("far", Some("node2"))];
    all.extend((0..109).map(|n| workloads::bare(&format!("many-{n}"), Some("node1"))));
    let scenario = Scenario::start(2, &all, |_| {}).unwrap();
    scenario.prepare().unwrap();
    let count = scenario.endpoints_on("node1").unwrap().len();
    assert_eq!(count, 110);
    let before = scenario.identities().unwrap();
    let (own, far) = (scenario.endpoints_on("node1").unwrap(), scenario.endpoints_on("node2").unwrap());
    let chosen = own.iter().step_by(20).chain(&far);
    let chosen: Vec<Endpoint> = chosen.cloned().collect();
    let between = |a: &Endpoint| chosen.iter().filter(move |b| *b != a).cloned().collect::<Vec<_>>();
    let pairs: Vec<(Endpoint, Endpoint)> =
        chosen.iter().flat_map(|a| between(a).into_iter().map(|b| (a.clone(), b))).collect();
    let traffic = Traffic::start(&scenario.cluster, &pairs, 50).unwrap();
    for (args, cni) in [(in_place("calico"), Cni::Calico), (BACK.to_vec(), Cni::Flannel)] {
        let begun = Instant::now();
        scenario.switched_in_place(&args).unwrap();
        println!("{count} pods to {}: {:.1?}", cni.name(), begun.elapsed());
        scenario.must_be_on(1, cni).unwrap();
        assert_eq!(scenario.identities().unwrap(), before);
    }
    nothing_lost(traffic).unwrap();
    assert_eq!(scenario.strays(1).unwrap(), Vec::<String>::new());
}
