//! The shim under Debian's containerd (its go-cni and libcni), on a booted node, with the real plugins behind spies.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on says so")]

#[path = "fixture.rs"]
mod fixture;

use std::collections::BTreeSet;
use std::time::Duration;

use cni_store::pending::Pending;
use cni_store::state::Backend;
use fixture::{Bench, SHIM_CONFLIST};
use nodectl_lab::node::Kind;
use serde_json::Value;

/// Notes what a plugin is given, then is that plugin.
const SPY: &str = r#"#!/bin/sh
call=/var/log/spy/$(date +%s%N)-${0##*/}
mkdir -p "$call"
cat > "$call/stdin"
env > "$call/env"
exec /opt/real/${0##*/} < "$call/stdin"
"#;

/// Puts a spy before every plugin.
fn spies(bench: &Bench) {
    bench.node().sh("mkdir -p /var/log/spy /opt/real; mv /opt/cni/bin/* /opt/real/").unwrap();
    bench.write("/opt/spy", SPY);
    let link = "chmod +x /opt/spy; for p in /opt/real/*; do cp /opt/spy /opt/cni/bin/${p##*/}; done";
    bench.node().sh(link).unwrap();
}

/// What a plugin was given.
#[derive(Debug, PartialEq)]
struct Given {
    kind: String,
    stdin: Value,
    env: BTreeSet<String>,
}

/// The calls since the last look, in their order, without what is drawn anew for each sandbox.
fn seen(bench: &Bench, id: &str) -> Vec<Given> {
    let folder = bench.node().path("/var/log/spy").unwrap();
    let mut calls: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    calls.sort();
    let of = |call: std::path::PathBuf| {
        let read = |name: &str| std::fs::read_to_string(call.join(name)).unwrap();
        let env = read("env");
        let netns = env.lines().find_map(|line| line.strip_prefix("CNI_NETNS=")).filter(|netns| !netns.is_empty());
        let netns = netns.unwrap_or("no namespace").to_owned();
        let plain = |text: &str| text.replace(id, "ID").replace(&netns, "NETNS");
        let stdin = serde_json::from_str(&plain(&read("stdin"))).unwrap_or_else(|e| panic!("{e}: {}", call.display()));
        // containerd ranges over a map: the order of CNI_ARGS is another one each time.
        let own = ["_=", "PWD=", "OLDPWD=", "SHLVL=", "INVOCATION_ID=", "SYSTEMD_EXEC_PID=", "JOURNAL_STREAM="];
        let lines = env.lines().filter(|line| !own.iter().any(|own| line.starts_with(own))).map(plain);
        let pairs =
            |line: String| line.trim_start_matches("CNI_ARGS=").split(';').map(str::to_owned).collect::<Vec<_>>();
        let (_, kind) = call.file_name().unwrap().to_str().unwrap().split_once('-').unwrap();
        Given { kind: kind.to_owned(), stdin: normal(stdin), env: lines.flat_map(pairs).collect() }
    };
    calls.retain(|call| !call.to_string_lossy().ends_with("-loopback"));
    let given = calls.into_iter().map(of).collect();
    bench.node().sh("rm -rf /var/log/spy/*").unwrap();
    given
}

/// Without MACs, the names of veths, and the process that `ctr` names a namespace by.
fn normal(mut value: Value) -> Value {
    match &mut value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                let begins = |start: &str| value.as_str().is_some_and(|text| text.starts_with(start));
                let drawn = key == "mac" || key == "name" && begins("veth") || key == "sandbox" && begins("/proc/");
                *value = if drawn { format!("some {key}").into() } else { normal(value.take()) };
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| *value = normal(value.take())),
        _ => {}
    }
    value
}

/// One sandbox's life as containerd leads it: what the plugins were given, its address, what is left.
fn life(bench: &Bench) -> (Vec<Given>, Vec<Given>, String, String) {
    bench.node().sh("rm -rf /var/lib/cni/networks").unwrap();
    let (id, ip) = bench.run("pod");
    let added = seen(bench, &id);
    bench.cri().stop_pod_sandbox(&id).unwrap();
    let deleted = seen(bench, &id);
    // containerd sends a second DEL here. There is nothing left to be done, so the shim calls nobody.
    bench.cri().remove_pod_sandbox(&id).unwrap();
    seen(bench, &id);
    (added, deleted, ip, bench.leftovers().replace("file /var/lib/cni/networks", ""))
}

/// The same by `ctr run --cni`, which brings go-cni and libcni of its own and names no pod.
fn life_by_ctr(bench: &Bench) -> (Vec<Given>, String) {
    bench.node().sh("rm -rf /var/lib/cni/networks").unwrap();
    let run = "ctr -n k8s.io run --rm --cni --runc-binary /usr/local/sbin/lab-runc docker.io/lab/pod:latest byctr true";
    bench.node().sh(run).unwrap();
    (seen(bench, "byctr"), bench.leftovers())
}

#[test]
fn containerds_plugins_cannot_tell_the_shim_from_libcni() {
    let bench = Bench::native(Kind::Full);
    spies(&bench);
    for (backend, conflist) in [(Backend::Flannel, "10-flannel.conflist"), (Backend::Calico, "10-calico.conflist")] {
        let other = if backend == Backend::Flannel { "10-calico.conflist" } else { "10-flannel.conflist" };
        bench.node().sh(&format!("rm -f {SHIM_CONFLIST}; cd /etc/cni/net.d; mv {other} /root/; touch {conflist}; sed -i s/x/x/ {conflist}")).unwrap();
        let first = if backend == Backend::Flannel { "flannel" } else { "bridge" };
        bench.wait_for("the native list", || bench.plugins().first().is_some_and(|kind| kind == first));
        // Once before: bridges and top-level chains stay by design.
        life(&bench);
        let natively = life(&bench);
        let by_ctr = life_by_ctr(&bench);
        bench.node().sh(&format!("mv /root/{other} /etc/cni/net.d/")).unwrap();
        bench.install();
        bench.route(backend);
        let through = life(&bench);
        assert!(natively.0.len() >= 4 && natively.1.len() >= 4, "{natively:?}");
        let names = |calls: &[Given]| calls.iter().map(|call| call.kind.clone()).collect::<Vec<_>>();
        for (through, natively) in [(&through.0, &natively.0), (&through.1, &natively.1)] {
            assert_eq!(names(through), names(natively));
            through.iter().zip(natively).for_each(|(through, natively)| assert_eq!(through, natively));
        }
        assert_eq!((&through.2, &through.3), (&natively.2, &natively.3));
        let through = life_by_ctr(&bench);
        assert!(by_ctr.0.len() >= 8, "{by_ctr:?}");
        through.0.iter().zip(&by_ctr.0).for_each(|(through, natively)| assert_eq!(through, natively, "by ctr"));
        assert_eq!(through, by_ctr);
        assert!(bench.records().is_empty());
    }
}

#[test]
fn row_31_and_33_containerd_restarts_in_mid_flip() {
    let bench = Bench::native(Kind::Full);
    bench
        .node()
        .sh("mv /etc/cni/net.d/10-calico.conflist /root/; sed -i s/x/x/ /etc/cni/net.d/10-flannel.conflist")
        .unwrap();
    bench.wait_for("flannel's list", || bench.plugins().first().is_some_and(|kind| kind == "flannel"));
    let warm = bench.run("warm").0;
    bench.stop(&warm);
    let before = bench.leftovers();
    let (old, _) = bench.run("old");
    bench.node().sh("mv /root/10-calico.conflist /etc/cni/net.d/").unwrap();
    bench.install();
    let (made, ip) = bench.run("made");
    assert!(ip.starts_with("10.244.1."), "{ip}");
    bench.hold("run", Duration::from_secs(300));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| bench.cri().run_pod_sandbox(fixture::pod("waits")));
        bench.wait_for("the ADD to wait", || {
            !cni_store::holds::list(&bench.paths()).unwrap().is_empty() || waits.is_finished()
        });
        bench.node().restart_unit("containerd.service").unwrap();
        assert!(waits.join().unwrap().is_err(), "containerd was restarted under it");
    });
    bench.wait_for("containerd", || bench.plugins() == ["cni-shim"]);
    bench.route(Backend::Calico);
    let (new, ip) = bench.run("new");
    assert!(ip.starts_with("10.245.1."), "{ip}");
    // Each goes where it came from: by its record, by libcni's cache of before the shim, by its record.
    for id in [&made, &old, &new] {
        bench.stop(id);
    }
    // Of the ADD that was cut off nobody asks any more.
    let reaped = bench.json(&["shim", "reap", "--older-than", "0"], 0);
    println!("{reaped}");
    bench.node().sh("ip link del br1").unwrap();
    let left = bench.leftovers();
    let new_rules =
        |text: &str| text.lines().filter(|line| !before.contains(line)).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(new_rules(&left), Vec::<String>::new());
    assert!(bench.records().is_empty());
}

#[test]
fn row_34_a_list_that_sorts_before_the_shims_is_used_and_named() {
    let bench = Bench::new(Kind::Full);
    assert_eq!(bench.json(&["shim", "status"], 0)["problems"], serde_json::json!([]));
    let list = r#"{"cniVersion":"0.4.0","name":"other","plugins":[{"type":"bridge","bridge":"br9","isGateway":true,
        "ipam":{"type":"host-local","ranges":[[{"subnet":"10.99.0.0/24"}]]}}]}"#;
    bench.write("/etc/cni/net.d/00-aaa.conflist", list);
    bench.wait_for("the other list", || bench.plugins() == ["bridge"]);
    let (id, ip) = bench.run("elsewhere");
    assert!(ip.starts_with("10.99.0."), "{ip}");
    let status = bench.json(&["shim", "status"], 5);
    let problem = status["problems"][0].as_str().unwrap();
    assert!(problem.contains("00-aaa.conflist sorts before") && problem.contains("To fix it: "), "{problem}");
    bench.node().sh("rm /etc/cni/net.d/00-aaa.conflist").unwrap();
    bench.wait_for("the shim's list", || bench.plugins() == ["cni-shim"]);
    // A pod of that other network comes to the shim: its cached list is the evidence.
    bench.stop(&id);
    assert_eq!(bench.node().sh("ls /var/lib/cni/networks/other | grep ^10 || true").unwrap(), "");
    assert_eq!(bench.json(&["shim", "status"], 0)["shim"]["attachments"], serde_json::json!([]));
}

#[test]
fn the_timer_finishes_what_is_pending() {
    let bench = Bench::new(Kind::Full);
    let (id, _) = bench.run("a");
    bench.node().sh("mv /opt/cni/bin/portmap /root/").unwrap();
    bench.cri().stop_pod_sandbox(&id).unwrap_err();
    bench.node().sh("mv /root/portmap /opt/cni/bin/").unwrap();
    assert_eq!(Pending::list(&bench.paths()).unwrap().0.len(), 1);
    bench.node().sh("systemctl enable --now nodectl-reap.timer").unwrap();
    assert!(
        bench
            .node()
            .sh("systemctl list-timers --no-legend nodectl-reap.timer")
            .unwrap()
            .contains("nodectl-reap.service")
    );
    bench.node().sh("mkdir -p /etc/nodectl /var/lib/textfile").unwrap();
    bench.write("/etc/nodectl/config.toml", "metrics_file = \"/var/lib/textfile/nodectl.prom\"\n");
    bench.node().start_unit("nodectl-reap.service").unwrap();
    let figures = bench.node().sh("cat /var/lib/textfile/nodectl.prom").unwrap();
    assert!(figures.lines().any(|line| line.starts_with("nodectl_") && line.ends_with(" 0")), "{figures}");
    assert!(Pending::list(&bench.paths()).unwrap().0.is_empty() && bench.records().is_empty());
    bench.stop(&id);
}
