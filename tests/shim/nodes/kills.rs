//! SIGKILL of the shim and of its delegates at random points, with the real flannel, bridge, host-local, portmap, bandwidth and
//! tuning plugins: after `nodectl shim reap` no address, link, rule, scratch file, record or lock is left.
//!
//! A seeded sample by default, 300 kills with NODECTL_TESTS_FULL=1.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on says so")]

#[path = "fixture.rs"]
mod fixture;

use std::io::Write as _;
use std::process::{Child, Stdio};
use std::time::Duration;

use cni_store::state::Backend;
use fixture::{Bench, LIMIT, SHIM_CONFLIST};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nodectl_lab::cluster::until;
use nodectl_lab::node::Kind;
use nodectl_lab::scenario::crash::Sample;
use nodectl_lab::scenario::full;
use serde_json::{Value, json};

/// What the runtime would send: the shim's entry with name, version and capability arguments.
fn stdin(bench: &Bench, n: usize) -> String {
    let list = std::fs::read_to_string(bench.node().path(SHIM_CONFLIST).unwrap()).unwrap();
    let list: Value = serde_json::from_str(&list).unwrap();
    let mut entry = list["plugins"][0].clone();
    entry["name"] = list["name"].clone();
    entry["cniVersion"] = json!("1.0.0");
    entry["runtimeConfig"] = json!({
        "portMappings": [{"hostPort": 20_000 + n, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": 1_000_000, "ingressBurst": 1_000_000}});
    entry.to_string()
}

/// A call of the shim in the node, as a runtime makes it.
fn start(bench: &Bench, verb: &str, n: usize) -> Child {
    let (id, args) = (format!("k{n}"), format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=k{n}"));
    let mut command = bench.node().command(&["/opt/cni/bin/cni-shim"]).unwrap();
    command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", &id).env("CNI_IFNAME", "eth0").env("CNI_ARGS", args);
    command.env("CNI_NETNS", format!("/run/netns/{id}")).env("CNI_PATH", "/opt/cni/bin");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the shim starts");
    child.stdin.take().unwrap().write_all(stdin(bench, n).as_bytes()).unwrap();
    child
}

/// All processes that this one has started, and theirs: the nearest first.
fn descendants(pid: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children: Vec<u32> = list.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let deeper: Vec<u32> = children.iter().flat_map(|child| descendants(*child)).collect();
    children.into_iter().chain(deeper).collect()
}

/// Whether a process is the shim or a plugin. Their own helpers are spared: portmap takes an iptables that is killed for a
/// machine without iptables, so that its DEL succeeds without having done anything (plugins 1.1.1, maybeGetIptables), with the
/// shim or without. A child that bears its parent's name still is to become one.
fn is_plugin(pid: &u32) -> bool {
    let plugins = ["cni-shim", "flannel", "bridge", "host-local", "tuning", "bandwidth", "portmap"];
    let name = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap_or_default().trim();
    let own = name(&pid.to_string());
    plugins.contains(&own.trim()) && own != name(parent)
}

/// Kills the shim or one of the plugins below it, whatever there is after so long; nsenter itself is only the way in.
fn strike(call: &mut Child, after: Duration, sample: &mut Sample) -> bool {
    std::thread::sleep(after);
    let mut below = descendants(call.id());
    below.retain(is_plugin);
    // Every second time the shim itself, else one of its delegates, and theirs.
    let place = if sample.below(2) == 0 { 0 } else { sample.below(below.len()) };
    let Some(pid) = below.get(place).and_then(|pid| i32::try_from(*pid).ok()) else { return false };
    let struck = kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok();
    call.wait().expect("the call ends");
    struck
}

#[test]
fn killed_at_any_point_nothing_leaks_after_reap() {
    let bench = Bench::new(Kind::Light);
    for backend in [Backend::Flannel, Backend::Calico] {
        bench.route(backend);
        let warm = bench.run("warm").0;
        bench.stop(&warm);
    }
    let before = bench.leftovers();
    let mut sample = Sample::from_environment();
    let kills = if full() { 300 } else { 40 };
    let (mut n, mut struck) = (0, 0);
    while struck < kills {
        n += 1;
        assert!(n < kills * 5, "the calls end before they can be killed");
        bench.route(if sample.below(2) == 0 { Backend::Flannel } else { Backend::Calico });
        bench.node().sh(&format!("ip netns add k{n}")).unwrap();
        let verb = if sample.below(3) == 0 {
            assert!(start(&bench, "ADD", n).wait().unwrap().success());
            "DEL"
        } else {
            "ADD"
        };
        let after = Duration::from_micros(u64::try_from(sample.below(120_000)).unwrap());
        let mut call = start(&bench, verb, n);
        struck += usize::from(strike(&mut call, after, &mut sample));
        // A runtime sends one DEL after a failed ADD; some of those are struck as well, some never come.
        if sample.below(2) == 0 {
            let mut del = start(&bench, "DEL", n);
            if sample.below(2) == 0 {
                struck += usize::from(strike(&mut del, after, &mut sample));
            }
            del.wait().unwrap();
        }
        // Some sandboxes' namespaces are gone when it is reaped.
        if sample.below(2) == 0 {
            bench.node().sh(&format!("ip netns del k{n}")).unwrap();
        }
    }
    println!("{struck} of {n} pods' calls were struck");
    // What a plugin works on still whose shim was killed is left alone: a later reap takes it.
    until(LIMIT, || {
        let reaped = bench.nodectl(&["shim", "reap", "--older-than", "0"]);
        let kept = bench.records();
        Ok((!reaped.ok() || !kept.is_empty()).then(|| format!("{reaped:?}, records: {kept:?}")))
    })
    .unwrap();
    bench.node().sh("for n in $(ip netns list | awk '/^k/ {print $1}'); do ip netns del $n; done").unwrap();
    assert_eq!(bench.leftovers(), before);
    assert!(bench.records().is_empty());
}
