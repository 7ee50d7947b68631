//! `nodectl shim status` and `nodectl shim reap` on a node with a runtime, real plugins and the shim in front.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on says so")]

#[path = "fixture.rs"]
mod fixture;

use cni_store::pending::Pending;
use cni_store::record::{Phase, Record};
use cni_store::state::Backend;
use fixture::Bench;
use nodectl_lab::node::Kind;
use serde_json::json;
use std::time::Duration;

#[test]
fn status_tells_what_the_shim_remembers_and_owes() {
    let bench = Bench::new(Kind::Light);
    let (a, _) = bench.run("a");
    bench.route(Backend::Calico);
    let (b, _) = bench.run("b");
    let status = bench.json(&["shim", "status"], 0);
    assert_eq!((&status["changed"], &status["problems"]), (&json!(false), &json!([])));
    let shim = &status["shim"];
    assert_eq!(
        (&shim["installed"], &shim["cni"], &shim["state"]["mode"]),
        (&json!(true), &json!("calico"), &json!("calico"))
    );
    let of = |id: &str| shim["attachments"].as_array().unwrap().iter().find(|x| x["container"] == id).unwrap().clone();
    assert_eq!(
        (&of(&a)["cni"], &of(&a)["pod"], &of(&a)["alive"]),
        (&json!("flannel"), &json!("default/a"), &json!(true))
    );
    assert_eq!(
        (&of(&b)["cni"], &of(&b)["native"], &of(&b)["networks"]),
        (&json!("calico"), &json!(true), &json!(["k8s-pod-network"]))
    );
    let text = bench.nodectl(&["shim", "status"]).stdout;
    assert!(
        text.contains("1 by flannel, 1 by Calico") && text.contains("default/a") && text.contains("not yet:"),
        "{text}"
    );

    // A DEL that fails is owed, and said to be.
    bench.node().sh("mv /opt/cni/bin/portmap /opt/cni/bin/portmap.away").unwrap();
    bench.cri().stop_pod_sandbox(&a).unwrap_err();
    let status = bench.json(&["shim", "status"], 5);
    assert_eq!(status["shim"]["pending"][0]["pod"], "default/a");
    assert!(status["problems"][0].as_str().unwrap().contains("nodectl shim reap"), "{status}");
    // The doctor names the same debt, and what pays it.
    let owed = || {
        let said = bench.json(&["doctor"], 2);
        said["findings"].as_array().unwrap().iter().find(|found| found["id"] == "pending-dels").cloned()
    };
    let told = owed().expect("the finding");
    assert_eq!((&told["command"], &told["objects"]), (&json!("nodectl shim reap"), &json!([format!("{a}-eth0")])));
    let reaped = bench.json(&["shim", "reap"], 5);
    let why = reaped["left"][0]["why"].as_str().unwrap();
    assert!(why.contains("\"portmap\" is missing"), "{reaped}");
    assert_eq!(Pending::list(&bench.paths()).unwrap().0[0].attempts, 2);
    bench.node().sh("mv /opt/cni/bin/portmap.away /opt/cni/bin/portmap").unwrap();
    let reaped = bench.json(&["shim", "reap"], 0);
    assert_eq!((&reaped["finished"], &reaped["changed"]), (&json!([a]), &json!(true)));
    // No agent runs on this node, so there are other findings.
    assert_eq!(owed(), None);
    // The runtime may ask again: there is nothing left to do, and that is a success.
    bench.stop(&a);
    bench.stop(&b);
    let nothing = bench.nodectl(&["shim", "reap"]);
    assert!(nothing.ok() && nothing.stdout.starts_with("Nothing to do"), "{nothing:?}");
    assert!(bench.records().is_empty());
}

#[test]
fn row_28_a_package_brings_a_shim_that_upgrade_puts_in_its_place() {
    let bench = Bench::native(Kind::Light);
    let nothing = bench.nodectl(&["shim", "upgrade"]);
    assert!(nothing.ok() && nothing.stdout.starts_with("Nothing to do: the shim is not in front"), "{nothing:?}");
    bench.install();
    let warm = bench.run("warm").0;
    bench.stop(&warm);
    let before = bench.leftovers();
    let (pod, _) = bench.run("a");
    assert_eq!(bench.json(&["shim", "upgrade"], 0)["outcome"], "nothing-to-do");
    // The runtime's is an earlier one.
    bench.node().sh("printf x >> /opt/cni/bin/cni-shim").unwrap();
    let same = || bench.node().sh("cmp -s /usr/libexec/nodectl/cni-shim /opt/cni/bin/cni-shim").is_ok();
    let told = || {
        let said = bench.json(&["doctor"], 2);
        said["findings"].as_array().unwrap().iter().any(|found| found["id"] == "shim-outdated")
    };
    let status = bench.json(&["shim", "status"], 5);
    assert!(status["problems"][0].as_str().unwrap().contains("To fix it: run `nodectl shim upgrade`"), "{status}");
    assert!(told());
    let dry = bench.json(&["shim", "upgrade", "--dry-run"], 0);
    assert!((&dry["outcome"], &dry["changed"]) == (&json!("would-upgrade"), &json!(false)) && !same(), "{dry}");
    let done = bench.json(&["shim", "upgrade"], 0);
    assert!((&done["outcome"], &done["changed"]) == (&json!("upgraded"), &json!(true)) && same(), "{done}");
    assert!(bench.json(&["shim", "status"], 0)["problems"] == json!([]) && !told());
    bench.stop(&pod);
    assert_eq!(bench.leftovers(), before, "what the earlier one attached, the later one detaches");
    // One that somebody has deleted comes back the same way.
    bench.node().sh("rm /opt/cni/bin/cni-shim").unwrap();
    assert!(bench.nodectl(&["shim", "upgrade"]).ok() && same());
    // A run may have put that binary there, and would take it back.
    bench
        .node()
        .sh("printf x >> /opt/cni/bin/cni-shim; mkdir -p /var/lib/nodectl; echo run-1 > /var/lib/nodectl/open")
        .unwrap();
    let refused = bench.nodectl(&["shim", "upgrade"]);
    assert!(refused.code == 3 && refused.stderr.contains("run run-1 is open. To fix it: "), "{refused:?}");
    assert!(!same());
}

#[test]
fn status_tells_who_waits_in_a_hold() {
    let bench = Bench::new(Kind::Light);
    bench.hold("run-7", Duration::from_secs(60));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| bench.run("w"));
        bench.wait_for("the ADD to wait", || {
            bench.json(&["shim", "status"], 0)["shim"]["waiting"][0]["pod"] == "default/w"
        });
        let text = bench.nodectl(&["shim", "status"]).stdout;
        assert!(text.contains("hold, since") && text.contains("run run-7"), "{text}");
        bench.route(Backend::Calico);
        waiting.join().unwrap();
    });
    assert_eq!(bench.records()[0].backend, Backend::Calico);
}

#[test]
fn attachments_that_the_runtime_forgot_are_finished() {
    let bench = Bench::new(Kind::Light);
    for backend in [Backend::Calico, Backend::Flannel] {
        bench.route(backend);
        let warm = bench.run("warm").0;
        bench.stop(&warm);
    }
    let before = bench.leftovers();
    let (kept, _) = bench.run("kept");
    let paths = bench.paths();
    let load = |id: &str| Record::load(&paths, id, "eth0").unwrap();
    let mut dead = Vec::new();
    for (name, phase) in [("forgotten", Phase::Added), ("half", Phase::Intent), ("torn", Phase::Added)] {
        // The shim's network has flannel's name: of a pod of Calico's, libcni's cached result has not the name of the pod's own.
        bench.route(if name == "forgotten" { Backend::Calico } else { Backend::Flannel });
        let (id, _) = bench.run(name);
        let record = Record { phase, ..load(&id).unwrap() };
        record.store(&paths, false).unwrap();
        bench.node().sh(&format!("rm /var/lib/containerd/lab/sandboxes/{id}")).unwrap();
        dead.push(id);
    }
    std::fs::write(paths.record(&dead[2], "eth0"), "{\"format\":1,").unwrap();
    std::fs::create_dir_all(paths.pendings()).unwrap();
    bench.node().restart_unit("containerd.service").unwrap();
    bench.wait_for("the runtime to be back", || bench.plugins().contains(&"cni-shim".to_owned()));
    let young = bench.json(&["shim", "reap"], 0);
    assert_eq!(young["finished"], json!([]), "a sandbox that was just made may not be listed yet: {young}");
    let mut finished: Vec<String> =
        serde_json::from_value(bench.json(&["shim", "reap", "--older-than", "0"], 0)["finished"].clone()).unwrap();
    finished.sort();
    dead.sort();
    assert_eq!(finished, dead);
    assert!(load(&kept).is_some());
    bench.stop(&kept);
    // The loopback's cached results are the runtime's own; it has forgotten them with the sandboxes.
    bench.node().sh("rm -f /var/lib/cni/results/cni-loopback-*").unwrap();
    assert_eq!(bench.leftovers(), before);
}

#[test]
fn without_a_runtime_only_pending_dels_are_run() {
    let bench = Bench::new(Kind::Light);
    let (id, _) = bench.run("a");
    bench.node().stop_unit("containerd.service").unwrap();
    let reaped = bench.json(&["shim", "reap", "--older-than", "0"], 0);
    assert_eq!((&reaped["runtime_silent"], &reaped["finished"]), (&json!(true), &json!([])), "{reaped}");
    let record = Record::load(&bench.paths(), &id, "eth0").unwrap().unwrap();
    let error = cni_spec::Error::new(11, "later", "");
    Pending::note(&bench.paths(), &id, "eth0", Some(&record), &error).unwrap();
    assert_eq!(bench.json(&["shim", "reap"], 0)["finished"], json!([id]));
    assert!(bench.records().is_empty());
    let status = bench.json(&["shim", "status"], 0);
    assert!(status["needed_for"][0].as_str().unwrap().contains("which sandboxes live"), "{status}");
}
