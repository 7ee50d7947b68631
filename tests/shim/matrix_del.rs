//! The failure matrix, rows about DEL.

use crate::common::{ARGS, SOON, World, cache_file, calico_list, canal_list, flannel_list};
use cni_spec::chain::DelList;
use cni_store::backends::Backends;
use cni_store::pending::{Outcome, Pending};
use cni_store::record::{Phase, Record};
use cni_store::state::{Backend, State};
use serde_json::json;
use std::fs;
use std::time::Duration;

#[test]
fn row_15_del_twice() {
    let world = World::new();
    world.add("c1").succeeded();
    world.del("c1").succeeded();
    world.take_log();
    world.del("c1").succeeded();
    world.del("never-seen").succeeded();
    assert!(world.take_log().is_empty());
    // If evidence remains, it is cleaned up.
    world.write("root/var/lib/cni/flannel/c1", r#"{"name":"cbr0","type":"bridge"}"#);
    world.del("c1").succeeded();
    assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL"]);
    world.del("c1").succeeded();
    assert!(world.take_log().is_empty());
    world.assert_clean();
}

/// Calico names a pod's interface after the pod: a StatefulSet's next one has the same.
#[test]
fn row_15_del_again_when_the_pod_has_another_sandbox() {
    let world = World::new();
    world.route(Backend::Calico);
    world.write("root/sys/class/net/cali0d7763386da/ifindex", "7");
    world.add("c1").succeeded();
    world.del("c1").succeeded();
    world.add("c2").succeeded();
    world.take_log();
    world.tell("calico.DEL", "fail 999 'the API server is unreachable' ''");
    world.del("c1").succeeded();
    assert!(world.take_log().is_empty() && world.record("c2").is_some());
    world.untell("calico.DEL");
    world.del("c2").succeeded();
    world.assert_clean();
}

/// While a pod is re-plumbed for flannel, its record is flannel's already and its interface has Calico's name still.
#[test]
fn row_15_del_again_while_the_pods_other_sandbox_is_re_plumbed() {
    let world = World::new();
    world.route(Backend::Calico);
    world.write("root/sys/class/net/cali0d7763386da/ifindex", "7");
    world.add("c1").succeeded();
    world.del("c1").succeeded();
    world.route(Backend::Flannel);
    world.add("c2").succeeded();
    world.take_log();
    world.tell("calico.DEL", "fail 999 'the API server is unreachable' ''");
    world.del("c1").succeeded();
    assert!(world.take_log().is_empty() && world.record("c2").is_some());
    assert!(Pending::load(&world.paths(), "c1", "eth0").unwrap().is_none());
}

#[test]
fn row_16_and_17_netns_empty_or_gone_is_forwarded_as_it_is() {
    let world = World::new();
    for netns in ["", "/var/run/netns/long-gone"] {
        world.add("c1").succeeded();
        world.take_log();
        world.call("DEL", "c1").env("CNI_NETNS", netns).go().succeeded();
        let calls = world.calls();
        assert_eq!(calls.len(), 2);
        assert!(calls.iter().all(|call| call.env["CNI_NETNS"] == netns), "{calls:?}");
        world.assert_clean();
    }
}

#[test]
fn row_18_and_19_args_and_runtime_config_come_from_the_record() {
    let world = World::new();
    let mappings = json!({"portMappings": [{"HostPort": 8080, "ContainerPort": 80, "HostIP": ""}]});
    world.call("ADD", "c1").with("runtimeConfig", mappings.clone()).go().succeeded();
    world.take_log();
    world.call("DEL", "c1").unset("CNI_ARGS").unset("CNI_PATH").go().succeeded();
    let calls = world.calls();
    assert_eq!(calls[0].stdin["runtimeConfig"], mappings, "portmap's DEL does nothing without");
    assert!(calls[1].stdin.get("runtimeConfig").is_none(), "flannel declares no capability");
    assert!(calls.iter().all(|call| call.env["CNI_ARGS"] == ARGS));
    assert!(calls.iter().all(|call| call.env["CNI_PATH"] == world.path("bin").to_str().unwrap()));
    world.assert_clean();
}

#[test]
fn row_20_flannel_delegate_del_failed_once() {
    let world = World::new();
    world.add("c1").succeeded();
    let scratch = world.path("root/var/lib/cni/flannel/c1");
    let before = fs::read_to_string(&scratch).unwrap();
    world.tell("flannel.DEL", "fail 11 'the bridge is busy' ''");
    world.del("c1").failed(11);
    assert_eq!(fs::read_to_string(&scratch).unwrap(), before, "flannel has removed it");
    world.untell("flannel.DEL");
    world.del("c1").succeeded();
    assert!(!scratch.exists());
    world.assert_clean();
    // Also if the power cut took it: flannel before 1.2.0 did not sync it.
    for torn in ["", "{\"na"] {
        world.add("c2").succeeded();
        world.write("root/var/lib/cni/flannel/c2", torn);
        world.tell("flannel.DEL", &format!("cp {} $world/seen 2>/dev/null", scratch.with_file_name("c2").display()));
        world.del("c2").succeeded();
        world.untell("flannel.DEL");
        assert!(!scratch.with_file_name("c2").exists());
        world.assert_clean();
    }
}

#[test]
fn row_21_calico_api_down_on_del() {
    let world = World::new();
    world.route(Backend::Calico);
    world.add("c1").succeeded();
    world.tell(
        "calico.DEL",
        "fail 999 'stat /var/lib/calico/nodename: no such file or directory: check' 'pod Not Found'",
    );
    let answer = world.call("DEL", "c1").unset("CNI_NETNS").go().failed(999);
    let text = answer.stdout.to_lowercase();
    assert!(
        !text.contains("no such file or directory") && !text.contains("not found"),
        "go-cni would call this a success"
    );
    assert!(text.contains("enoent") && text.contains("pod missing"), "{text}");
    assert!(world.record("c1").is_some());
    let pending = Pending::list(&world.paths()).unwrap().0;
    assert_eq!((pending.len(), pending[0].attempts), (1, 1));
    world.tell("bandwidth.DEL", "fail 7 'also this' ''");
    let joined = world.del("c1").failed(7);
    assert!(joined.stdout.contains("also this") && joined.stdout.contains("nodename"), "{joined:?}");
    assert_eq!(Pending::list(&world.paths()).unwrap().0[0].attempts, 2);
    world.untell("calico.DEL");
    world.untell("bandwidth.DEL");
    // What the runtime gives up, nodectl finishes.
    let outcome = pending[0].run(&world.paths(), &Backends::default(), "", SOON, Duration::from_secs(10)).unwrap();
    assert_eq!(outcome, Outcome::Done);
    world.assert_clean();
}

#[test]
fn deferred_dels_succeed_and_are_finished_later() {
    let world = World::new();
    world.route(Backend::Calico);
    world.add("c1").succeeded();
    State::change(&world.paths(), |state| Ok(State { defer_failed_del: true, ..state.unwrap() })).unwrap();
    world.tell("calico.DEL", "fail 999 'the API server is unreachable' ''");
    world.del("c1").succeeded();
    assert!(world.record("c1").is_none());
    let pending = Pending::list(&world.paths()).unwrap().0.remove(0);
    world.take_log();
    let run = |pending: &Pending| {
        pending.run(&world.paths(), &Backends::default(), "", SOON, Duration::from_secs(10)).unwrap()
    };
    assert!(matches!(run(&pending), Outcome::Failed(failures) if failures.len() == 1));
    assert_eq!(Pending::load(&world.paths(), "c1", "eth0").unwrap().unwrap().attempts, 2);
    world.untell("calico.DEL");
    assert_eq!(run(&pending), Outcome::Done);
    assert_eq!(run(&pending), Outcome::Done);
    let calls = world.calls();
    assert!(calls.iter().all(|call| call.env["CNI_ARGS"] == ARGS && call.env["CNI_NETNS"].is_empty()));
    assert_eq!(world.take_log(), ["bandwidth DEL", "calico DEL", "bandwidth DEL", "calico DEL"]);
    world.assert_clean();
}

#[test]
fn row_24_records_do_not_depend_on_the_result_cache() {
    let world = World::new();
    let record = world.paths().record("c1", "eth0");
    assert!(world.paths().results().iter().all(|results| !record.starts_with(results)));
    world.add("c1").succeeded();
    fs::remove_dir_all(world.path("root/var/lib/cni")).unwrap();
    world.take_log();
    world.del("c1").succeeded();
    assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL"]);
    world.assert_clean();
}

#[test]
fn row_31_pod_older_than_the_shim_by_libcnis_cache() {
    let world = World::new();
    world.route(Backend::Calico);
    let mut old_list = flannel_list();
    old_list["plugins"][0]["delegate"]["marker"] = json!("as it was");
    cache_file(&world, &old_list, "c1", &json!({"cniVersion": "0.3.1", "ips": []}));
    cache_file(&world, &calico_list(), "c2", &json!({"cniVersion": "1.0.0", "ips": []}));
    world.write("root/var/lib/cni/flannel/c1", r#"{"name":"cbr0","type":"bridge"}"#);
    for id in ["c1", "c2"] {
        world.call("DEL", id).unset("CNI_ARGS").with("name", json!("the-shims-own-name")).go().succeeded();
    }
    let calls = world.calls();
    assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL", "bandwidth DEL", "calico DEL"]);
    assert_eq!(calls[0].stdin["runtimeConfig"]["portMappings"][0]["HostPort"], 8080);
    assert_eq!(calls[1].stdin["delegate"]["marker"], "as it was");
    assert!(calls[1].stdin["name"] == "cbr0" && calls[3].stdin["name"] == "k8s-pod-network");
    assert!(calls[1].stdin.get("prevResult").is_none() && calls[3].stdin["prevResult"]["cniVersion"] == "1.0.0");
    assert!(calls.iter().all(|call| call.env["CNI_ARGS"] == ARGS));
    assert_eq!(fs::read_dir(world.path("root/var/lib/cni/results")).unwrap().count(), 0, "stale caches stay for ever");
    world.assert_clean();
}

#[test]
fn row_31_pod_older_than_the_shim_by_other_evidence() {
    let world = World::new();
    world.route(Backend::Calico);
    // An old cache without a conflist: the name tells; a torn one too.
    for cache in [r#"{"cniVersion":"0.3.1","ips":[]}"#, ""] {
        world.write("root/var/lib/cni/results/cbr0-c1-eth0", cache);
        // Under its own name, libcni removes the cache itself.
        world.call("DEL", "c1").with("name", json!("the-shims-own-name")).go().succeeded();
        assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL"]);
        assert!(!world.path("root/var/lib/cni/results/cbr0-c1-eth0").exists());
    }
    // Only an address: flannel would do nothing without its scratch file, so host-local is called itself.
    world.install("bin", "host-local");
    world.write("root/var/lib/cni/networks/cbr0/10.244.1.2", "c1\r\neth0");
    world.write("root/var/lib/cni/networks/cbr0/10.244.1.3", "c10\r\neth0");
    world.write("root/var/lib/cni/networks/cbr0/last_reserved_ip.0", "10.244.1.3");
    world.del("c1").succeeded();
    let call = &world.calls()[0];
    assert_eq!((call.stdin["name"].as_str(), call.stdin["ipam"]["type"].as_str()), (Some("cbr0"), Some("host-local")));
    assert_eq!(world.take_log(), ["host-local DEL"]);
    // Calico's interface of the pod: "cali" and the start of sha1("default.web-0").
    world.del("c1").succeeded();
    fs::remove_dir_all(world.path("root/var/lib/cni/networks")).unwrap();
    world.take_log();
    world.write("root/sys/class/net/cali0d7763386da/ifindex", "7");
    world.del("c2").succeeded();
    assert_eq!(world.take_log(), ["bandwidth DEL", "calico DEL"]);
    world.assert_clean();
}

/// Canal plays flannel's part, with Calico's plugin and the name of Calico's network: host-local's lease tells its pods from Calico's.
#[test]
fn row_31_pods_of_canal_are_told_from_calicos() {
    let world = World::new();
    world.conflist(Backend::Flannel, &canal_list());
    world.route(Backend::Calico);
    let lease =
        |id: &str| world.write("root/var/lib/cni/networks/k8s-pod-network/10.244.1.2", &format!("{id}\r\neth0"));
    let forget = || fs::remove_dir_all(world.path("root/var/lib/cni/networks")).unwrap();
    let canals = ["portmap DEL", "calico DEL"];
    // The interface alone says nothing, for both have it.
    world.write("root/sys/class/net/cali0d7763386da/ifindex", "7");
    lease("c1");
    world.del("c1").succeeded();
    assert_eq!(world.calls()[1].stdin["ipam"]["type"], "host-local");
    assert_eq!(world.take_log(), canals);
    // An old cache without a conflist: so does the network's name alone.
    fs::remove_dir_all(world.path("root/sys/class/net/cali0d7763386da")).unwrap();
    let old = r#"{"cniVersion":"1.0.0","ips":[]}"#;
    for (reserved, wanted) in [(true, canals), (false, ["bandwidth DEL", "calico DEL"])] {
        forget();
        lease(if reserved { "c2" } else { "another" });
        world.write("root/var/lib/cni/results/k8s-pod-network-c2-eth0", old);
        world.call("DEL", "c2").with("name", json!("the-shims-own-name")).go().succeeded();
        assert_eq!(world.take_log(), wanted, "{reserved}");
    }
    forget();
    world.assert_clean();
}

/// Where Calico has never been, there is no list of its that could be blamed on the interface.
#[test]
fn row_31_an_interface_alone_is_canals_where_calico_has_no_list() {
    let world = World::new();
    world.conflist(Backend::Flannel, &canal_list());
    fs::remove_file(world.conflist_path(Backend::Calico)).unwrap();
    world.write("root/sys/class/net/cali0d7763386da/ifindex", "7");
    world.del("c1").succeeded();
    assert_eq!(world.take_log(), ["portmap DEL", "calico DEL"]);
    world.assert_clean();
}

/// An address that host-local has reserved under the name of Calico's network is no business of calico-ipam's: its DEL does not free it.
#[test]
fn row_31_a_lease_beside_calicos_attachment_is_freed_too() {
    let world = World::new();
    world.route(Backend::Calico);
    world.install("bin", "host-local");
    cache_file(&world, &calico_list(), "c1", &json!({"cniVersion": "1.0.0", "ips": []}));
    world.write("root/var/lib/cni/networks/k8s-pod-network/10.244.1.2", "c1\r\neth0");
    world.del("c1").succeeded();
    assert_eq!(world.take_log(), ["bandwidth DEL", "calico DEL", "host-local DEL"]);
}

#[test]
fn row_31_another_containers_cache_is_no_evidence() {
    let world = World::new();
    // Network "cbr0" and container "a-c1", or network "cbr0-a" and container "c1".
    cache_file(&world, &flannel_list(), "a-c1", &json!({"cniVersion": "0.3.1", "ips": []}));
    world.del("c1").succeeded();
    assert!(world.take_log().is_empty());
    world.del("a-c1").succeeded();
    assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL"]);
}

#[test]
fn torn_records_fall_back_to_evidence_and_then_to_both() {
    let world = World::new();
    for torn in ["", "{\"format\":1,\"contain", "\0\0\0"] {
        world.add("c1").succeeded();
        world.take_log();
        fs::write(world.paths().record("c1", "eth0"), torn).unwrap();
        world.del("c1").succeeded();
        assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL"], "flannel's scratch file tells");
        world.route(Backend::Calico);
        world.add("c2").succeeded();
        world.take_log();
        fs::write(world.paths().record("c2", "eth0"), torn).unwrap();
        world.tell("calico.DEL", "fail 999 unreachable ''");
        world.del("c2").failed(999);
        world.untell("calico.DEL");
        world.take_log();
        world.del("c2").succeeded();
        assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL", "bandwidth DEL", "calico DEL"]);
        world.route(Backend::Flannel);
        world.assert_clean();
    }
}

#[test]
fn a_record_that_is_torn_behind_its_intent_is_the_intent() {
    let world = World::new();
    world.add("c1").succeeded();
    let path = world.paths().record("c1", "eth0");
    let (whole, added) = (fs::read(&path).unwrap(), world.record("c1").unwrap());
    let intent = whole.iter().position(|byte| *byte == b'\n').expect("the intent has a line of its own");
    assert_eq!(added.phase, Phase::Added);
    for end in (intent..whole.len()).chain([whole.len()]) {
        fs::write(&path, &whole[..end]).unwrap();
        let record = world.record("c1").unwrap();
        if end == whole.len() {
            assert_eq!(record, added);
        } else {
            assert_eq!(record, Record { phase: Phase::Intent, result: None, flannel_scratch: None, ..added.clone() });
        }
    }
    // Zeros in its place, as a power cut leaves them.
    fs::write(&path, [&whole[..intent], &vec![0; whole.len() - intent]].concat()).unwrap();
    world.take_log();
    world.del("c1").succeeded();
    assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL"]);
    world.assert_clean();
}

#[test]
fn lost_records_of_the_shims_own_pods() {
    let world = World::new();
    // A power cut took the record before it reached the disk; the runtime's cache has the shim's own list.
    let shims = json!({"name": "cbr0", "cniVersion": "1.0.0", "plugins": [world.entry()]});
    cache_file(&world, &shims, "c1", &json!({"cniVersion": "1.0.0", "ips": []}));
    world.del("c1").succeeded();
    let calls = world.calls();
    assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL", "bandwidth DEL", "calico DEL"]);
    assert_eq!(calls[0].stdin["runtimeConfig"]["portMappings"][0]["HostPort"], 8080);
    world.write("root/var/lib/cni/flannel/c1", r#"{"name":"cbr0","type":"bridge"}"#);
    world.del("c1").succeeded();
    assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL"], "it was flannel's");
    world.assert_clean();
}

#[test]
fn adopted_pods_end_in_two_lists() {
    let world = World::new();
    let mappings = json!({"portMappings": [{"HostPort": 8080}]});
    world.call("ADD", "c1").with("runtimeConfig", mappings.clone()).go().succeeded();
    let mut record = world.record("c1").unwrap();
    let flannel = record.del.remove(0);
    let calico = cni_spec::conflist::List::parse(calico_list().to_string().as_bytes()).unwrap();
    let calico = calico.resolve(world.path("bin").to_str().unwrap()).unwrap();
    record.del =
        vec![DelList { args: ARGS.into(), ..calico }, DelList { plugins: vec![flannel.plugins[1].clone()], ..flannel }];
    record.store(&world.paths(), true).unwrap();
    world.take_log();
    world.del("c1").succeeded();
    let calls = world.calls();
    assert_eq!(world.take_log(), ["bandwidth DEL", "calico DEL", "portmap DEL"]);
    assert_eq!((&calls[2].stdin["name"], &calls[2].stdin["runtimeConfig"]), (&json!("cbr0"), &mappings));
    assert_eq!(calls[1].stdin["prevResult"]["cniVersion"], "1.0.0");
    world.assert_clean();
}

#[test]
fn row_35_cni_path_with_several_dirs() {
    let world = World::new();
    world.install("bin2", "calico");
    world.install("bin2", "tuning");
    let dirs =
        format!("{}:{}:{}", world.path("empty").display(), world.path("bin2").display(), world.path("bin").display());
    world.conflist(Backend::Flannel, &json!({"name": "cbr0", "cniVersion": "0.3.1", "plugins": [{"type": "calico"}, {"type": "tuning"}, {"type": "portmap"}]}));
    world.call("ADD", "c1").env("CNI_PATH", &dirs).go().succeeded();
    let record = world.record("c1").unwrap();
    let paths: Vec<_> = record.del[0].plugins.iter().map(|plugin| plugin.path.clone()).collect();
    assert_eq!(paths, [world.path("bin2/calico"), world.path("bin2/tuning"), world.path("bin/portmap")]);
    fs::remove_dir_all(world.path("bin2")).unwrap();
    world.install("bin", "tuning");
    world.take_log();
    world.del("c1").succeeded();
    assert_eq!(world.take_log(), ["portmap DEL", "tuning DEL", "calico DEL"]);
}
