//! The failure matrix, rows about ADD and its state, files and binaries; the disk: matrix_disk.rs. `row_N_...` is row N.

use crate::common::{Answer, SOON, World, calico_list, flannel_list, wait_for};
use cni_shim::request::Request;
use cni_spec::skel::{Input, Verb};
use cni_store::record::{Phase, Record};
use cni_store::state::{Backend, Owner, State};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

#[test]
fn row_01_state_missing_add_takes_the_default_backend() {
    let world = World::new();
    let said = world.add("c1").succeeded().stderr;
    assert!(said.contains("state.json is missing") && said.contains("the default, flannel"), "{said}");
    assert_eq!(world.take_log(), ["flannel ADD", "portmap ADD"]);
    world.call("ADD", "c2").with("default", json!("calico")).go().succeeded();
    assert_eq!(world.take_log(), ["calico ADD", "bandwidth ADD"]);
    // DEL goes by the records.
    world.del("c2").succeeded();
    assert_eq!(world.take_log(), ["bandwidth DEL", "calico DEL"]);
    world.call("DEL", "c1").with("default", json!("calico")).go().succeeded();
    assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL"]);
    world.assert_clean();
}

#[test]
fn row_02_state_corrupt_uses_the_copy_or_says_try_later() {
    let world = World::new();
    world.route(Backend::Calico);
    world.add("c1").succeeded();
    world.take_log();
    for torn in [
        "",
        "{\"format\":1,\"mode\":\"fla",
        "\0\0\0\0",
        "[]",
        r#"{"format":99,"mode":"flannel"}"#,
        r#"{"format":1,"mode":"flannel","checksum":"0123456789abcdef"}"#,
        r#"{"format":1,"mode":"hold"}"#,
    ] {
        fs::write(world.paths().state(), torn).unwrap();
        world.add("c2").succeeded();
        world.del("c2").succeeded();
        assert_eq!(world.take_log().first().unwrap(), "calico ADD");
        let copy = fs::read(world.paths().state_copy()).unwrap();
        fs::write(world.paths().state_copy(), torn).unwrap();
        let refused = world.add("c3").failed(11);
        assert!(refused.stdout.contains("To fix it"), "{refused:?}");
        world.call("STATUS", "").go().failed(50);
        assert!(world.take_log().is_empty());
        fs::write(world.paths().state_copy(), copy).unwrap();
    }
    fs::remove_file(world.paths().state()).unwrap();
    world.add("c4").succeeded();
    assert_eq!(world.take_log().first().unwrap(), "calico ADD");
    world.del("c4").succeeded();
    world.del("c1").succeeded();
    world.assert_clean();
}

#[test]
fn row_03_conflist_missing_or_half_written() {
    let world = World::new();
    let path = world.conflist_path(Backend::Flannel);
    // Never read before: no copy.
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    world.add("c1").failed(11);
    // The installer finishes while the shim tries again.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(70));
            fs::write(&path, &whole).unwrap();
        });
        world.add("c1").succeeded();
    });
    // From now on there is a copy.
    for half in [Some(&whole[..40]), Some(&[][..]), None] {
        match half {
            Some(half) => fs::write(&path, half).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        world.take_log();
        world.add("c2").succeeded();
        assert_eq!(world.take_log(), ["flannel ADD", "portmap ADD"]);
        fs::remove_dir_all(world.paths().state_dir().join("backends")).unwrap();
        world.del("c2").succeeded();
        assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL"]);
        fs::write(&path, &whole).unwrap();
        world.add("c3").succeeded();
        world.del("c3").succeeded();
    }
    world.del("c1").succeeded();
    world.assert_clean();
}

#[test]
fn row_04_delegate_binary_missing() {
    let world = World::new();
    fs::remove_file(world.path("bin/portmap")).unwrap();
    let refused = world.add("c1").failed(11);
    assert!(refused.stdout.contains("portmap"), "{refused:?}");
    assert!(world.take_log().is_empty(), "nothing may run when the chain cannot be run whole");
    world.assert_clean();

    world.install("bin", "portmap");
    world.add("c1").succeeded();
    fs::remove_file(world.path("bin/portmap")).unwrap();
    world.take_log();
    let failed = world.del("c1").failed(5);
    assert!(!failed.stdout.to_lowercase().contains("not found"), "{failed:?}");
    assert!(!failed.stdout.to_lowercase().contains("no such file"), "{failed:?}");
    assert_eq!(world.take_log(), ["flannel DEL"]);
    assert!(world.record("c1").is_some());
    world.install("bin", "portmap");
    world.del("c1").succeeded();
    world.assert_clean();
}

#[test]
fn row_05_delegate_hangs_with_a_grandchild_that_keeps_its_output_open() {
    let world = World::new();
    world.tell("portmap.ADD", "sleep 300 & echo $! > $world/grandchild; wait");
    let answer = world.call("ADD", "c1").limits(json!({"add": 400})).go().failed(11);
    assert!(answer.took < SOON && answer.stdout.contains("portmap"), "{answer:?}");
    assert_eq!(world.take_log(), ["flannel ADD", "portmap ADD", "portmap DEL", "flannel DEL"]);
    world.assert_clean();
    let pid = fs::read_to_string(world.path("grandchild")).unwrap();
    wait_for("the group to be killed", || !fs::exists(format!("/proc/{}", pid.trim())).unwrap() || is_zombie(&pid));

    // A delegate that ends, leaving a process that keeps its output open, is not waited for.
    world.tell("portmap.ADD", "while [ ! -e $world/let-go ]; do sleep 0.1; done &");
    world.add("c2").succeeded();
    world.tell("portmap.DEL", "sleep 300");
    world.take_log();
    let answer = world.call("DEL", "c2").limits(json!({"del": 5_000, "lock": 10})).go();
    // The stray process still holds the attachment's lock.
    assert!(answer.failed(11).stdout.contains("still at work"));
    world.write("let-go", "");
    wait_for("the stray to end", || !world.record("c2").unwrap().is_busy(&world.paths()).unwrap());
    let answer = world.call("DEL", "c2").limits(json!({"del": 2_000})).go().failed(11);
    assert!(answer.took < SOON, "{answer:?}");
    assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL"], "the rest of the chain gets its share of the time");
    assert!(world.record("c2").is_some() && world.paths().pending("c2", "eth0").exists());
    world.untell("portmap.DEL");
    world.del("c2").succeeded();
    world.assert_clean();
}

#[test]
fn row_05_every_verb_has_its_deadline_below_the_runtimes() {
    let world = World::new();
    let mut list = calico_list();
    list["cniVersion"] = json!("1.1.0");
    world.conflist(Backend::Calico, &list);
    world.route(Backend::Calico);
    world.add("c1").succeeded();
    for verb in ["CHECK", "GC", "STATUS"] {
        world.tell(&format!("calico.{verb}"), "sleep 300 & wait");
        let limits = json!({"check": 300, "gc": 300, "status": 300});
        let call = world
            .call(verb, "c1")
            .limits(limits)
            .with("cni.dev/valid-attachments", json!([{"containerID": "c1", "ifname": "eth0"}]));
        let answer = call.go().failed(if verb == "STATUS" { 50 } else { 11 });
        assert!(answer.took < SOON, "{verb}: {answer:?}");
    }
    world.del("c1").succeeded();
    // What it takes by itself: kubelet gives RunPodSandbox 240 s, CRI-O a DEL 60 s and a GC 30 s, and STATUS is asked every 5 s.
    let invocation = cni_spec::chain::Invocation::default();
    let config = world.call("ADD", "c1").config;
    let request = Input::parse(Verb::Add, invocation, json!(config).to_string().as_bytes(), &mut String::new())
        .and_then(Request::of)
        .unwrap();
    let limits = request.limits;
    let seconds = |time: Duration| time.as_secs();
    // All waits before the first delegate share one limit; killing what hangs takes a little more, once in add and once in undo.
    let kill = Duration::from_secs(2);
    assert!(seconds(limits.begin() + limits.add() + kill + limits.undo() + kill) < 230, "{limits:?}");
    assert!(limits.hold() < limits.begin(), "{limits:?}");
    assert!(seconds(limits.del()) < 60 && limits.lock() < limits.del(), "{limits:?}");
    assert!(seconds(limits.gc()) < 30 && seconds(limits.status()) < 5 && seconds(limits.check()) < 60, "{limits:?}");
}

#[test]
fn row_05_all_that_comes_before_the_first_delegate_has_one_deadline() {
    let world = World::new();
    let within = |answer: &Answer| answer.took > Duration::from_millis(450) && answer.took < SOON;
    // Long waits, each of which may come several times in one ADD; together they end when it has to begin.
    let limits = json!({"begin": 500, "hold": 60_000, "lock": 60_000, "del": 60_000});
    let begin = || world.call("ADD", "c1").limits(limits.clone());
    // In a hold.
    let owner = Owner::this_process("run-1");
    State::hold(Backend::Flannel, Backend::Calico, owner, Duration::from_secs(600)).store(&world.paths()).unwrap();
    let answer = begin().go().failed(11);
    assert!(within(&answer), "{answer:?}");
    world.route(Backend::Flannel);
    // For another call, then for a change of the state that does not end.
    let lock = cni_store::lock::attachment(&world.paths(), "c1", "eth0", SOON).unwrap();
    let answer = begin().go().failed(11);
    assert!(within(&answer), "{answer:?}");
    drop(lock);
    let lock = cni_store::lock::state(&world.paths(), true, SOON).unwrap();
    let answer = begin().go().failed(11);
    assert!(within(&answer), "{answer:?}");
    drop(lock);
    assert!(world.take_log().is_empty(), "no delegate was called");
    // For the DEL of an earlier ADD that was killed, whose plugin hangs.
    let mut shim = world.begin_add("c1");
    shim.kill().unwrap();
    shim.wait().unwrap();
    world.write("go", "");
    wait_for("its delegate's end", || !world.record("c1").unwrap().is_busy(&world.paths()).unwrap());
    world.untell("flannel.ADD");
    world.take_log();
    world.tell("flannel.DEL", "sleep 300 & wait");
    let answer = begin().go().failed(11);
    assert!(within(&answer) && !world.take_log().contains(&"flannel ADD".to_owned()), "{answer:?}");
    world.untell("flannel.DEL");
    world.del("c1").succeeded();
    world.assert_clean();
}

fn is_zombie(pid: &str) -> bool {
    cni_spec::process::started(pid.trim().parse().unwrap()).is_none()
}

#[test]
fn row_06_shim_killed_the_next_del_waits_for_its_delegate() {
    let world = World::new();
    world.tell("flannel.ADD", "echo > $world/started; sleep 0.7; echo > $world/ended");
    let mut shim = world.call("ADD", "c1").spawn();
    wait_for("the delegate", || world.path("started").exists());
    shim.kill().unwrap();
    shim.wait().unwrap();
    assert_eq!(world.record("c1").unwrap().phase, Phase::Intent);
    assert!(!world.path("ended").exists());
    world.call("DEL", "c1").limits(json!({"lock": 50})).go().failed(11);
    assert!(!world.path("ended").exists());
    world.del("c1").succeeded();
    assert!(world.path("ended").exists(), "DEL ran beside a delegate of the ADD");
    assert_eq!(
        world.take_log(),
        ["flannel ADD", "portmap DEL", "flannel DEL"],
        "also the plugin that was never reached"
    );
    world.assert_clean();
}

#[test]
fn row_12_same_attachment_added_again() {
    let world = World::new();
    world.add("c1").succeeded();
    let before = world.record("c1");
    world.take_log();
    world.add("c1").failed(100);
    assert!(world.take_log().is_empty(), "undoing it would tear down a live attachment");
    assert_eq!(world.record("c1"), before);
    // An ADD that died: its remains are cleaned up first.
    let died = Record { phase: Phase::Intent, result: None, ..before.unwrap() };
    died.store(&world.paths(), false).unwrap();
    world.add("c1").succeeded();
    assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL", "flannel ADD", "portmap ADD"]);
    world.del("c1").succeeded();
    world.assert_clean();
}

#[test]
fn row_13_state_changes_while_an_add_runs() {
    let world = World::new();
    world.route(Backend::Flannel);
    let shim = world.begin_add("c1");
    world.route(Backend::Calico);
    assert_eq!(Record::in_flight(&world.paths()).unwrap().len(), 1);
    world.write("go", "");
    assert!(shim.wait_with_output().unwrap().status.success());
    assert!(Record::in_flight(&world.paths()).unwrap().is_empty());
    world.add("c2").succeeded();
    assert_eq!(world.take_log(), ["flannel ADD", "portmap ADD", "calico ADD", "bandwidth ADD"]);
    world.call("CHECK", "c2").go().succeeded();
    world.take_log();
    world.del("c1").succeeded();
    world.del("c2").succeeded();
    assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL", "bandwidth DEL", "calico DEL"]);
    world.assert_clean();
}

#[test]
fn row_14_del_before_the_add_has_finished() {
    let world = World::new();
    let shim = world.begin_add("c1");
    world.call("DEL", "c1").limits(json!({"lock": 100})).go().failed(11);
    assert!(world.paths().pending("c1", "eth0").exists());
    world.write("go", "");
    let output = shim.wait_with_output().unwrap();
    assert!(!output.status.success(), "a late ADD must not stay");
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["code"], 11);
    assert_eq!(world.take_log(), ["flannel ADD", "portmap ADD", "portmap DEL", "flannel DEL"]);
    world.assert_clean();
    world.del("c1").succeeded();
}

#[test]
fn row_23_flannel_is_not_ready_after_a_boot() {
    let world = World::new();
    world.add("c1").succeeded();
    fs::remove_dir_all(world.path("root/run")).unwrap();
    let rebooted = Record { boot_id: "an earlier boot".into(), ..world.record("c1").unwrap() };
    rebooted.store(&world.paths(), false).unwrap();
    world.take_log();
    world.add("c2").failed(11);
    assert!(world.take_log().is_empty());
    // containerd sends an empty netns for a sandbox of before the boot.
    world.call("DEL", "c1").unset("CNI_NETNS").go().succeeded();
    assert_eq!(world.take_log(), ["portmap DEL", "flannel DEL"]);
    world.assert_clean();
}

#[test]
fn row_28_upgrades() {
    let world = World::new();
    world.add("c1").succeeded();
    // A delegate that is just being written, by cp instead of a rename.
    fs::remove_file(world.path("bin/portmap")).unwrap();
    fs::copy("/bin/true", world.path("bin/portmap")).unwrap();
    let writer = fs::OpenOptions::new().append(true).mode(0o755).open(world.path("bin/portmap")).unwrap();
    world.take_log();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            drop(writer);
        });
        let answer = world.del("c1").succeeded();
        assert!(answer.took > Duration::from_millis(900), "it was tried again after a second: {answer:?}");
    });
    assert_eq!(world.take_log(), ["flannel DEL"]);
    let _writer = fs::OpenOptions::new().append(true).open(world.path("bin/portmap")).unwrap();
    world.conflist(Backend::Flannel, &json!({"name": "cbr0", "cniVersion": "0.3.1", "plugins": [{"type": "portmap"}]}));
    let answer = world.call("ADD", "c2").limits(json!({"add": 1200})).go().failed(11);
    assert!(answer.stdout.contains("being written"), "{answer:?}");
    // Still busy, so that the undoing failed too; it is kept, not called a success.
    assert!(world.paths().pending("c2", "eth0").exists());
    drop(_writer);
    world.del("c2").succeeded();
    world.conflist(Backend::Flannel, &flannel_list());
    // A record of a later version is not touched by this one.
    fs::remove_file(world.path("bin/portmap")).unwrap();
    world.install("bin", "portmap");
    world.add("c3").succeeded();
    let path = world.paths().record("c3", "eth0");
    let mut record = serde_json::to_value(world.record("c3").unwrap()).unwrap();
    record["format"] = json!(2);
    let later = record.to_string();
    record["format"] = json!(1);
    record["something_new"] = json!(1);
    world.take_log();
    for later in [later, json!({"format": 2, "whatever": "it is then"}).to_string()] {
        fs::write(&path, &later).unwrap();
        world.del("c3").failed(7);
        assert!(world.take_log().is_empty());
        assert_eq!(fs::read_to_string(&path).unwrap(), later);
    }
    // Nor is a pending DEL.
    fs::remove_file(&path).unwrap();
    let (pending, later) = ("root/var/lib/cni-shim/pending/c3-eth0.json", r#"{"format":2}"#);
    world.write(pending, later);
    world.del("c3").failed(7);
    assert_eq!(fs::read_to_string(world.path(pending)).unwrap(), later);
    fs::remove_file(world.path(pending)).unwrap();
    fs::write(&path, record.to_string()).unwrap();
    world.del("c3").succeeded();
    world.assert_clean();
}
