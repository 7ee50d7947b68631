//! The failure matrix, rows about DELs that go by evidence, and those that no runtime asks for.

use crate::common::{ARGS, SOON, World, cache_file, calico_list};
use cni_store::backends::Backends;
use cni_store::evidence::{self, Sought};
use cni_store::lock;
use cni_store::pending::{Outcome, Pending};
use cni_store::record::{Phase, Record};
use cni_store::state::Backend;
use serde_json::json;
use std::fs;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

fn usual(network: &str) -> Backends {
    Backends { network: network.into(), ..Backends::default() }
}

/// A pending DEL as nodectl runs it.
fn reap(world: &World, pending: &Pending, network: &str) -> Outcome {
    let bin = world.path("bin");
    pending.run(&world.paths(), &usual(network), bin.to_str().unwrap(), SOON, LIMIT).unwrap()
}

/// libcni does not sync its cached results: a power cut leaves one of no length, of which only the file's name is left. That is the shim's
/// network's name, which one of the backends has too, and says nothing of who attached the pod.
#[test]
fn a_torn_cache_under_the_shims_name_is_nobodys() {
    let both = ["portmap DEL", "flannel DEL", "bandwidth DEL", "calico DEL"];
    for name in ["cbr0", "k8s-pod-network"] {
        for torn_record in [false, true] {
            let world = World::new();
            let cache = format!("root/var/lib/cni/results/{name}-c1-eth0");
            let del = || {
                world.write(&cache, "");
                if torn_record {
                    world.write("root/var/lib/cni-shim/attachments/c1-eth0.json", "");
                }
                world.call("DEL", "c1").with("name", json!(name)).go().succeeded();
                world.take_log()
            };
            assert_eq!(del(), both, "{name} {torn_record}: nothing else tells");
            world.write("root/sys/class/net/cali0d7763386da/ifindex", "7");
            assert_eq!(del(), both[2..], "{name} {torn_record}: Calico's interface tells");
            fs::remove_dir_all(world.path("root/sys/class/net/cali0d7763386da")).unwrap();
            world.write("root/var/lib/cni/flannel/c1", r#"{"name":"cbr0","type":"bridge"}"#);
            assert_eq!(del(), both[..2], "{name} {torn_record}: flannel's scratch file tells");
            world.install("bin", "host-local");
            world.write("root/var/lib/cni/networks/cbr0/10.244.1.2", "c1\r\neth0");
            assert_eq!(
                del(),
                ["portmap DEL", "flannel DEL", "host-local DEL"],
                "{name} {torn_record}: host-local's lease tells"
            );
            world.assert_clean();
        }
    }
}

/// A torn record is of a pod that the shim knew: no name of a file tells more than that.
#[test]
fn a_torn_cache_beside_a_torn_record_tells_nothing_under_any_name() {
    let world = World::new();
    world.write("root/var/lib/cni/results/cbr0-c1-eth0", "");
    world.write("root/var/lib/cni-shim/attachments/c1-eth0.json", "");
    world.call("DEL", "c1").with("name", json!("the-shims-own-name")).go().succeeded();
    assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL", "bandwidth DEL", "calico DEL"]);
    world.assert_clean();
}

/// Calico finds an attachment by the pod in CNI_ARGS. Without a cached result that has them, they are the runtime's.
#[test]
fn what_evidence_does_not_tell_of_the_arguments_the_runtime_does() {
    let world = World::new();
    world.write("root/sys/class/net/cali0d7763386da/ifindex", "7");
    world.tell("calico.DEL", "fail 999 'the API server is unreachable' ''");
    world.del("c1").failed(999);
    world.untell("calico.DEL");
    let pending = Pending::list(&world.paths()).unwrap().0.remove(0);
    assert!(pending.record.as_ref().unwrap().del.iter().all(|list| list.args == ARGS));
    world.take_log();
    assert_eq!(reap(&world, &pending, "cbr0"), Outcome::Done);
    assert!(world.calls().iter().all(|call| call.env["CNI_ARGS"] == ARGS), "no runtime has sent them this time");
    world.assert_clean();
}

/// libcni removes its own cached result when it is the runtime that has asked. When it is not, nobody else does.
#[test]
fn a_del_that_no_runtime_asks_for_leaves_no_cached_result() {
    let world = World::new();
    let shims = json!({"name": "cbr0", "cniVersion": "1.0.0", "plugins": [world.entry()]});
    let result = json!({"cniVersion": "1.0.0", "ips": []});
    let cached = |id: &str| world.path(&format!("root/var/lib/cni/results/cbr0-{id}-eth0"));
    for backend in Backend::ALL {
        world.route(backend);
        for id in ["c1", "c2", "c3"] {
            world.add(id).succeeded();
            cache_file(&world, &shims, id, &result);
        }
        let record = world.record("c1");
        let gone = cni_spec::Error::new(11, "later", "");
        Pending::note(&world.paths(), "c1", "eth0", record.as_ref(), &gone).unwrap();
        let pending = Pending::load(&world.paths(), "c1", "eth0").unwrap().unwrap();
        assert_eq!(reap(&world, &pending, "cbr0"), Outcome::Done);
        let valid = json!([{"containerID": "c3", "ifname": "eth0"}]);
        world.call("GC", "").with("cni.dev/valid-attachments", valid).go().succeeded();
        assert!(!cached("c1").exists() && !cached("c2").exists() && cached("c3").exists(), "{backend}");
        world.take_log();
        world.del("c1").succeeded();
        assert!(world.take_log().is_empty(), "the runtime may ask again all the same");
        world.del("c3").succeeded();
        world.assert_clean();
    }
}

/// What is to be run is not known, so the evidence is searched again.
#[test]
fn a_del_whose_backend_cannot_be_used_just_now_is_owed() {
    let world = World::new();
    world.write("root/sys/class/net/cali0d7763386da/ifindex", "7");
    world.write("root/etc/cni/net.d/10-calico.conflist", "{");
    world.del("c1").failed(11);
    let pending = Pending::list(&world.paths()).unwrap().0.remove(0);
    assert_eq!((pending.attempts, pending.pod().unwrap().full_name().as_str()), (1, "default/web-0"));
    let run = || pending.run(&world.paths(), &Backends::default(), world.path("bin").to_str().unwrap(), SOON, LIMIT);
    assert_eq!(run().unwrap_err().code, 11);
    assert_eq!(Pending::list(&world.paths()).unwrap().0[0].attempts, 2);
    assert!(world.take_log().is_empty());
    world.conflist(Backend::Calico, &calico_list());
    assert_eq!(reap(&world, &pending, "cbr0"), Outcome::Done);
    assert!(world.calls().iter().all(|call| call.env["CNI_ARGS"] == ARGS));
    assert_eq!(world.take_log(), ["bandwidth DEL", "calico DEL"]);
    world.assert_clean();
}

/// nodectl records a sandbox that is older than the shim while the runtime deletes it.
#[test]
fn an_import_finds_nothing_of_what_a_del_took_meanwhile() {
    let world = World::new();
    let (paths, scratch) = (world.paths(), "root/var/lib/cni/flannel/c1");
    let backends = usual("");
    let bin = world.path("bin");
    let import = || {
        let sought =
            Sought { container_id: "c1", ifname: "eth0", args: ARGS, cni_path: bin.to_str().unwrap(), torn: false };
        evidence::adopt(&paths, &backends, &sought, Some("/run/netns/c1"), LIMIT).unwrap()
    };
    let while_a_del_is_at_work = |what: &dyn Fn()| {
        let lock = lock::attachment(&paths, "c1", "eth0", SOON).unwrap().unwrap();
        std::thread::scope(|scope| {
            let importing = scope.spawn(import);
            std::thread::sleep(Duration::from_millis(100));
            what();
            lock.remove();
            importing.join().unwrap()
        })
    };
    world.write(scratch, r#"{"name":"cbr0","type":"bridge"}"#);
    assert!(!while_a_del_is_at_work(&|| fs::remove_file(world.path(scratch)).unwrap()));
    world.assert_clean();
    world.write(scratch, r#"{"name":"cbr0","type":"bridge"}"#);
    assert!(import());
    let record = world.record("c1").unwrap();
    assert_eq!((record.netns.as_str(), record.imported), ("/run/netns/c1", true));
    assert!(record.del.iter().all(|list| list.args == ARGS));
    // One that has failed keeps a record of its own.
    record.remove(&paths).unwrap();
    let own = Record { phase: Phase::Deleting, ..record };
    assert!(while_a_del_is_at_work(&|| own.store(&paths, false).unwrap()));
    assert_eq!(world.record("c1").unwrap().phase, Phase::Deleting);
}
