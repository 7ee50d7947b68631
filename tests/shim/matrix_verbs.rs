//! The failure matrix, rows about GC, CHECK and the end of the shim.

use crate::common::{ARGS, SOON, World, cache_file, calico_list, flannel_list};
use cni_store::lock;
use cni_store::record::{Phase, Record};
use cni_store::state::{Backend, Owner, State};
use serde_json::{Value, json};
use std::time::Duration;

fn valid(ids: &[&str]) -> Value {
    ids.iter().map(|id| json!({"containerID": id, "ifname": "eth0"})).collect()
}

#[test]
fn row_25_gc_deletes_own_records_that_are_not_valid() {
    let world = World::new();
    for id in ["keep", "drop1", "drop2", "old"] {
        world.add(id).succeeded();
    }
    // A sandbox older than the shim, as nodectl imports it: CRI-O may file it under another network's name.
    Record { imported: true, ..world.record("old").unwrap() }.store(&world.paths(), false).unwrap();
    world.take_log();
    // Not saying what is valid does not mean that nothing is.
    world.call("GC", "").go().succeeded();
    world.call("GC", "").with("cni.dev/valid-attachments", Value::Null).go().succeeded();
    assert!(world.take_log().is_empty());
    world.tell("portmap.DEL", "[ $CNI_CONTAINERID = drop1 ] && fail 7 stuck ''");
    let gc = world.call("GC", "").with("cni.dev/valid-attachments", valid(&["keep", "unknown"]));
    gc.go().failed(7);
    assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL", "portmap DEL", "flannel DEL"], "past the error");
    assert!(world.record("drop1").is_some() && world.record("drop2").is_none() && world.record("keep").is_some());
    world.untell("portmap.DEL");
    // The older, misspelt key.
    world.call("GC", "").with("cni.dev/attachments", valid(&["keep"])).go().succeeded();
    assert!(world.record("drop1").is_none() && world.record("old").is_some());
    world.take_log();
    // Lists of 1.1.0 get the whole set.
    let mut list = calico_list();
    list["cniVersion"] = json!("1.1.0");
    world.conflist(Backend::Calico, &list);
    gc.go().succeeded();
    let calls = world.calls();
    assert_eq!(world.take_log(), ["calico GC", "bandwidth GC"]);
    assert_eq!(calls[0].stdin["cni.dev/valid-attachments"], valid(&["keep", "unknown"]));
    assert_eq!(calls[0].stdin["cni.dev/attachments"], valid(&["keep", "unknown"]));
    list["disableGC"] = json!(true);
    world.conflist(Backend::Calico, &list);
    gc.go().succeeded();
    assert!(world.take_log().is_empty());
}

#[test]
fn row_25_gc_deletes_nothing_when_what_is_valid_cannot_be_told() {
    let world = World::new();
    world.add("c1").succeeded();
    let probe = format!("{ARGS};NODECTL_RUN=run-1");
    world.call("ADD", "probe").env("CNI_ARGS", &probe).go().succeeded();
    world.take_log();
    let gc = |valid: Value| world.call("GC", "").with("cni.dev/valid-attachments", valid).go();
    let one = json!({"containerID": "c1"});
    for valid in [json!({}), json!("c1"), json!(["c1"]), json!([one]), json!([{"containerID": 1, "ifname": "eth0"}])] {
        assert!(gc(valid).failed(6).stdout.contains("nothing was done"));
    }
    assert!(world.take_log().is_empty() && world.record("c1").is_some());
    // What a nodectl run has attached for itself, no runtime knows.
    gc(valid(&[])).succeeded();
    assert!(world.record("c1").is_none() && world.record("probe").is_some());
    world.del("probe").succeeded();
    world.assert_clean();
}

#[test]
fn row_25_gc_leaves_for_later_what_it_has_no_time_for() {
    let world = World::new();
    world.add("c1").succeeded();
    world.add("c2").succeeded();
    world.tell("flannel.DEL", "sleep 300");
    world.take_log();
    let gc = world.call("GC", "").limits(json!({"gc": 300})).with("cni.dev/valid-attachments", valid(&[]));
    let answer = gc.go().failed(11);
    assert!(answer.stdout.contains("no time left") && answer.took < SOON, "{answer:?}");
    assert!(
        world.calls().iter().all(|call| call.container_id == "c1"),
        "a plugin that is killed at its start is no help"
    );
    assert_eq!(world.record("c2").unwrap().phase, Phase::Added);
    world.untell("flannel.DEL");
    gc.go().succeeded();
    world.assert_clean();
}

#[test]
fn row_26_gc_leaves_alone_what_is_locked() {
    let world = World::new();
    world.add("c1").succeeded();
    world.take_log();
    let gc = world.call("GC", "").with("cni.dev/valid-attachments", valid(&[]));
    let held = lock::attachment(&world.paths(), "c1", "eth0", SOON).unwrap().unwrap();
    gc.go().succeeded();
    assert!(world.record("c1").is_some() && world.take_log().is_empty());
    drop(held);
    gc.go().succeeded();
    assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL"]);
    world.assert_clean();
}

#[test]
fn row_27_check() {
    let world = World::new();
    let check = |id| world.call("CHECK", id).go();
    check("unknown").succeeded();
    world.add("f").succeeded();
    world.route(Backend::Calico);
    world.add("c").succeeded();
    world.take_log();
    check("f").succeeded();
    assert!(world.take_log().is_empty(), "libcni does not CHECK a list below 0.4.0");
    check("c").succeeded();
    let calls = world.calls();
    assert_eq!(world.take_log(), ["calico CHECK", "bandwidth CHECK"]);
    assert!(calls.iter().all(|call| call.stdin["prevResult"]["cniVersion"] == "1.0.0"));
    world.tell("calico.CHECK", "fail 101 'the route is gone' ''");
    check("c").failed(101);
    assert_eq!(world.take_log(), ["calico CHECK"], "it stops at the first error");
    world.call("CHECK", "c").with("cniVersion", json!("0.4.0")).go().failed(101);
    world.call("CHECK", "c").with("cniVersion", json!("0.3.1")).go().failed(1);
    let mut record = world.record("c").unwrap();
    record.del[0].disable_check = true;
    record.store(&world.paths(), false).unwrap();
    check("c").succeeded();
    std::fs::write(world.paths().record("c", "eth0"), "").unwrap();
    check("c").succeeded();
}

#[test]
fn records_and_what_should_be_some_can_be_listed() {
    let world = World::new();
    world.add("f").succeeded();
    world.route(Backend::Calico);
    world.add("c").succeeded();
    std::fs::write(world.paths().record("torn", "eth0"), "{").unwrap();
    let (records, torn) = Record::list(&world.paths()).unwrap();
    let mut backends: Vec<_> = records.iter().map(|record| (record.container_id.as_str(), record.backend)).collect();
    backends.sort_by_key(|(id, _)| id.to_owned());
    assert_eq!(backends, [("c", Backend::Calico), ("f", Backend::Flannel)]);
    assert_eq!(torn, [world.paths().record("torn", "eth0")]);
    let pod = records[0].pod.clone().unwrap();
    assert_eq!((pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str()), ("default", "web-0", "u-1"));
}

#[test]
fn row_33_every_call_reads_the_state_anew() {
    let world = World::new();
    for (backend, first) in
        [(Backend::Calico, "calico ADD"), (Backend::Flannel, "flannel ADD"), (Backend::Calico, "calico ADD")]
    {
        world.route(backend);
        world.add("c1").succeeded();
        assert_eq!(world.take_log()[0], first);
        world.del("c1").succeeded();
        world.take_log();
    }
}

#[test]
fn status_tells_whether_an_add_would_succeed() {
    let world = World::new();
    let status = || world.call("STATUS", "").unset("CNI_NETNS").unset("CNI_IFNAME").go();
    assert_eq!(status().succeeded().stdout, "");
    let env = world.path("root/run/flannel/subnet.env");
    std::fs::rename(&env, env.with_extension("gone")).unwrap();
    assert!(status().failed(50).stdout.contains("subnet.env"));
    // The other one is broken too, but nobody uses it.
    let nodename = world.path("root/var/lib/calico/nodename");
    std::fs::rename(&nodename, nodename.with_extension("gone")).unwrap();
    status().failed(50);
    std::fs::rename(nodename.with_extension("gone"), &nodename).unwrap();
    world.route(Backend::Calico);
    status().succeeded();
    world.add("c").succeeded();
    world.route(Backend::Flannel);
    status().failed(50);
    std::fs::remove_file(world.path("root/etc/cni/net.d/calico-kubeconfig")).unwrap();
    status().failed(51);
    world.route(Backend::Calico);
    assert!(status().failed(50).stdout.contains("kubeconfig"));
    // Older runtimes do not ask; delegates of 1.1.0 are asked.
    world.call("STATUS", "").with("cniVersion", json!("1.0.0")).go().failed(1);
    world.write("root/etc/cni/net.d/calico-kubeconfig", "");
    let mut list = calico_list();
    list["cniVersion"] = json!("1.1.0");
    world.conflist(Backend::Calico, &list);
    world.take_log();
    status().succeeded();
    assert_eq!(world.take_log(), ["calico STATUS", "bandwidth STATUS"]);
    world.tell("calico.STATUS", "fail 51 'pods have no network' ''");
    status().failed(51);
    world.tell("calico.STATUS", "sleep 60");
    let answer = world.call("STATUS", "").limits(json!({"status": 300})).go().failed(50);
    assert!(answer.took < SOON);
    std::fs::remove_file(world.path("bin/bandwidth")).unwrap();
    status().failed(50);
}

#[test]
fn status_of_a_hold_that_has_ended_by_itself_is_the_backends() {
    let world = World::new();
    std::fs::remove_file(world.path("root/run/flannel/subnet.env")).unwrap();
    let alive = Owner::this_process("run-1");
    let gone = Owner { started: Some(1), ..alive.clone() };
    for (owner, ready) in [(alive, true), (gone, false)] {
        let minute = Duration::from_secs(60);
        State::hold(Backend::Flannel, Backend::Calico, owner, minute).store(&world.paths()).unwrap();
        let status = world.call("STATUS", "").go();
        if ready {
            status.succeeded()
        } else {
            status.failed(50)
        };
    }
}

#[test]
fn importing_gives_records_that_replay() {
    let world = World::new();
    cache_file(&world, &flannel_list(), "c1", &json!({"cniVersion": "0.3.1", "ips": []}));
    world.write("root/var/lib/cni/flannel/c1", r#"{"name":"cbr0","type":"bridge"}"#);
    let bin = world.path("bin");
    let sought = cni_store::evidence::Sought {
        container_id: "c1",
        ifname: "eth0",
        args: "",
        cni_path: bin.to_str().unwrap(),
        torn: false,
    };
    let found = cni_store::evidence::import_record(&world.paths(), &cni_store::backends::Backends::default(), &sought);
    let record = found.unwrap().unwrap();
    assert!(record.imported && record.flannel_scratch.is_some() && record.backend == Backend::Flannel);
    assert_eq!(record.pod.as_ref().unwrap().name, "web-0");
    assert_eq!(record.netns, "/var/run/netns/c1");
    record.store(&world.paths(), true).unwrap();
    std::fs::remove_dir_all(world.path("root/var/lib/cni/flannel")).unwrap();
    world.route(Backend::Calico);
    world.call("DEL", "c1").with("name", json!("other")).go().succeeded();
    let calls = world.calls();
    assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL"]);
    assert_eq!(calls[0].stdin["runtimeConfig"]["portMappings"][0]["ContainerPort"], 80);
    assert!(!world.path("root/var/lib/cni/results/cbr0-c1-eth0").exists());
    world.assert_clean();
}
