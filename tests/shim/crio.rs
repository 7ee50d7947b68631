//! CRI-O's calls, replayed as its source makes them.

use crate::common::crio::Crio;
use crate::common::libcni::version;
use crate::common::{ARGS, SOON, World, calico_list, flannel_list};
use cni_store::backends::Backends;
use cni_store::pending::{Outcome, Pending};
use cni_store::state::Backend;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

/// A node with the shim's binary, and its conflist under this name in front of flannel's and Calico's.
fn world(name: &str) -> World {
    let world = World::new();
    symlink(env!("CARGO_BIN_EXE_cni-shim"), world.path("bin/cni-shim")).unwrap();
    let list = json!({"name": name, "cniVersion": "1.0.0", "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        "loadOnlyInlinedPlugins": true, "plugins": [world.entry()]});
    world.write("root/etc/cni/net.d/00-cni-shim.conflist", &list.to_string());
    world
}

fn ports() -> Value {
    json!({"portMappings": [{"hostPort": 8080, "containerPort": 80}], "bandwidth": {"ingressRate": 1000}})
}

#[test]
fn crio_takes_the_shim_for_its_default_network() {
    let world = world("cbr0");
    let crio = Crio::start(&world);
    let names: Vec<_> = crio.lists.iter().map(|list| list["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["cbr0", "k8s-pod-network"], "flannel's own list has the same name and is left out");
    assert_eq!(
        (crio.lists[0]["plugins"][0]["type"].as_str(), version(&crio.lists[0])),
        (Some("cni-shim"), "1.1.0".into())
    );
}

#[test]
fn row_27_crio_checks_right_after_every_add() {
    let world = world("cbr0");
    let crio = Crio::start(&world);
    world.take_log();
    // flannel's list is of 0.3.1, which has no CHECK: the shim says that all is well.
    let result = crio.start_pod("f", ports()).unwrap();
    assert_eq!((&result["cniVersion"], &result["ips"][0]["interface"]), (&json!("1.1.0"), &json!(0)));
    assert_eq!(world.take_log(), ["flannel ADD", "portmap ADD"]);
    world.route(Backend::Calico);
    crio.start_pod("c", ports()).unwrap();
    assert_eq!(world.take_log(), ["calico ADD", "bandwidth ADD", "calico CHECK", "bandwidth CHECK"]);
    // A CHECK that fails takes the pod down again, and nothing stays.
    world.tell("bandwidth.CHECK", "fail 105 'the qdisc is gone' ''");
    assert_eq!(crio.start_pod("d", ports()).unwrap_err()["code"], 105);
    assert!(world.record("d").is_none());
    for id in ["f", "c"] {
        crio.stop_pod(id).unwrap();
    }
    world.assert_clean();
}

#[test]
fn row_18_and_19_crio_deletes_by_its_cached_list_whatever_is_on_disk() {
    let world = world("cbr0");
    let crio = Crio::start(&world);
    crio.start_pod("c1", ports()).unwrap();
    world.route(Backend::Calico);
    for list in ["00-cni-shim", "10-flannel", "10-calico"] {
        fs::remove_file(world.path(&format!("root/etc/cni/net.d/{list}.conflist"))).unwrap();
    }
    world.take_log();
    crio.stop_pod("c1").unwrap();
    let calls = world.calls();
    assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL"]);
    assert_eq!(calls[0].stdin["runtimeConfig"], json!({"portMappings": ports()["portMappings"]}));
    assert!(calls.iter().all(|call| call.env["CNI_ARGS"] == ARGS && call.stdin["name"] == "cbr0"));
    world.assert_clean();
}

#[test]
fn row_32_crio_deletes_pods_older_than_the_shim_without_it() {
    let world = world("cbr0");
    let shims = world.path("root/etc/cni/net.d/00-cni-shim.conflist");
    fs::rename(&shims, shims.with_extension("later")).unwrap();
    let crio = Crio::start(&world);
    assert_eq!(crio.lists.iter().map(|list| list["name"].clone()).collect::<Vec<_>>(), ["k8s-pod-network", "cbr0"]);
    fs::remove_file(world.conflist_path(Backend::Calico)).unwrap();
    let crio = Crio::start(&world);
    crio.start_pod("old", ports()).unwrap();
    fs::rename(shims.with_extension("later"), &shims).unwrap();
    world.conflist(Backend::Calico, &calico_list());
    world.route(Backend::Calico);
    let crio = Crio::start(&world);
    world.take_log();
    crio.stop_pod("old").unwrap();
    assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL"], "natively, by the list that made it");
    assert!(!world.paths().state_dir().join("locks/old-eth0.lock").exists() && world.record("old").is_none());
    world.assert_clean();
}

#[test]
fn row_30_a_binary_that_is_gone_costs_crio_its_one_del_and_the_record_makes_up_for_it() {
    let world = world("cbr0");
    let crio = Crio::start(&world);
    crio.start_pod("c1", ports()).unwrap();
    world.take_log();
    fs::remove_file(world.path("bin/cni-shim")).unwrap();
    let error = crio.stop_pod("c1").unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("failed to find plugin \"cni-shim\""));
    // It has forgotten the pod: asked again, it calls nobody.
    crio.stop_pod("c1").unwrap();
    assert!(world.take_log().is_empty());
    let record = world.record("c1").expect("the record stays");
    let gone = cni_spec::Error::new(11, "the runtime does not know the sandbox any more", "");
    Pending::note(&world.paths(), "c1", "eth0", Some(&record), &gone).unwrap();
    let pending = Pending::list(&world.paths()).unwrap().0.remove(0);
    let outcome = pending.run(&world.paths(), &Backends::default(), "", SOON, Duration::from_secs(10)).unwrap();
    assert_eq!(outcome, Outcome::Done);
    assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL"]);
    world.assert_clean();
}

#[test]
fn row_25_crio_gc_at_its_start_spares_the_living_and_ends_the_dead() {
    let world = world("cbr0");
    let shims = world.path("root/etc/cni/net.d/00-cni-shim.conflist");
    let shim_list = fs::read(&shims).unwrap();
    fs::remove_file(&shims).unwrap();
    fs::remove_file(world.conflist_path(Backend::Calico)).unwrap();
    let before = Crio::start(&world);
    for id in ["old", "oldgone"] {
        before.start_pod(id, ports()).unwrap();
    }
    fs::write(&shims, shim_list).unwrap();
    world.conflist(Backend::Calico, &calico_list());
    let crio = Crio::start(&world);
    crio.start_pod("f", ports()).unwrap();
    world.route(Backend::Calico);
    crio.start_pod("c", ports()).unwrap();
    crio.start_pod("cgone", ports()).unwrap();
    world.take_log();
    let again = Crio::start(&world);
    world.take_log();
    again.gc(&["old", "oldgone", "f", "c", "cgone"]).unwrap();
    assert!(world.take_log().is_empty(), "all live");
    again.gc(&["old", "f", "c"]).unwrap();
    let mut calls: Vec<_> =
        world.calls().iter().map(|call| format!("{} {} {}", call.container_id, call.kind, call.verb)).collect();
    calls.sort();
    assert_eq!(calls, ["cgone bandwidth DEL", "cgone calico DEL", "oldgone flannel DEL", "oldgone portmap DEL"]);
    world.take_log();
    for id in ["old", "f", "c"] {
        again.stop_pod(id).unwrap();
    }
    world.assert_clean();
    assert_eq!(fs::read_dir(world.path("root/var/lib/cni/results")).unwrap().count(), 0);
}

#[test]
fn under_a_name_of_its_own_crio_would_delete_every_living_pod() {
    // Why the shim's conflist keeps the name of the list that it replaces.
    let world = world("shim");
    let shims = world.path("root/etc/cni/net.d/00-cni-shim.conflist");
    fs::rename(&shims, shims.with_extension("later")).unwrap();
    fs::remove_file(world.conflist_path(Backend::Calico)).unwrap();
    Crio::start(&world).start_pod("old", ports()).unwrap();
    fs::rename(shims.with_extension("later"), &shims).unwrap();
    let crio = Crio::start(&world);
    world.take_log();
    crio.gc(&["old"]).unwrap();
    assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL"]);
    assert_eq!(flannel_list()["name"], "cbr0");
}
