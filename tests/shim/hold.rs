//! ADDs in a hold.

use crate::common::{ARGS, SOON, World, wait_for};
use cni_store::holds;
use cni_store::state::{Backend, Mode, Owner, Route, State};
use serde_json::json;
use std::process::Child;
use std::time::{Duration, Instant};

fn hold(world: &World, owner: Owner, bound: Duration) -> State {
    State::hold(Backend::Flannel, Backend::Calico, owner, bound).store(&world.paths()).unwrap()
}

fn ours() -> Owner {
    Owner::this_process("run-1")
}

/// The ADD of c1, which waits in the hold by now.
fn waiting(world: &World) -> Child {
    let shim = world.call("ADD", "c1").spawn();
    wait_for("the marker", || holds::list(&world.paths()).unwrap().len() == 1);
    shim
}

const LONG: Duration = Duration::from_secs(600);

/// Three ADDs in a hold go where the change says; how long after it they had ended.
fn three_wait_for_the_change(world: &World, attempt: u64) -> Duration {
    let state = hold(world, ours(), LONG);
    assert_eq!(state.generation, 1 + 2 * attempt, "each change is one");
    let shims: Vec<_> = ["c1", "c2", "c3"].iter().map(|id| world.call("ADD", id).spawn()).collect();
    wait_for("the markers", || holds::list(&world.paths()).unwrap().len() == 3);
    let marker = holds::list(&world.paths()).unwrap().remove(0);
    assert_eq!(marker.pod.as_ref().unwrap().name, "web-0");
    assert!(marker.deadline_ms >= marker.since_ms + 59_000 && marker.container_id == "c1");
    // Meanwhile the node is ready, DELs work, and nothing else is locked or written.
    world.call("STATUS", "").go().succeeded();
    world.del("c9").succeeded();
    assert!(world.record("c1").is_none() && world.take_log().is_empty());
    let changed = Instant::now();
    world.route(Backend::Calico);
    for shim in shims {
        let output = shim.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let took = changed.elapsed();
    let log = world.take_log();
    assert!(log.len() == 6 && log.iter().all(|call| !call.starts_with("flannel")), "{log:?}");
    for id in ["c1", "c2", "c3"] {
        world.del(id).succeeded();
    }
    world.take_log();
    world.assert_clean();
    took
}

#[test]
fn waits_for_the_change_and_goes_where_it_says() {
    let world = World::new();
    // A busy machine may be slow to wake anybody, but not each time.
    let tries: Vec<Duration> = (0..5).map(|attempt| three_wait_for_the_change(&world, attempt)).collect();
    let quickest = tries.iter().min().unwrap();
    assert!(*quickest < Duration::from_millis(900), "woken by the change, not by a tick: {tries:?}");
}

#[test]
fn waits_also_when_the_inotify_instances_are_used_up() {
    let world = World::new();
    hold(&world, ours(), LONG);
    let call = world.call("ADD", "c1");
    let script = "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$0\"";
    let mut command = std::process::Command::new("unshare");
    command.args(["-U", "-r", "sh", "-c", script, env!("CARGO_BIN_EXE_cni-shim")]).envs(&call.env);
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut shim = command.spawn().unwrap();
    let stdin = serde_json::to_vec(&call.config).unwrap();
    std::io::Write::write_all(&mut shim.stdin.take().unwrap(), &stdin).unwrap();
    wait_for("the marker", || holds::list(&world.paths()).unwrap().len() == 1);
    world.route(Backend::Calico);
    let output = shim.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot watch"), "{output:?}");
    assert_eq!(world.take_log()[0], "calico ADD");
}

#[test]
fn gives_up_with_code_11() {
    let world = World::new();
    hold(&world, ours(), LONG);
    let answer = world.call("ADD", "c1").limits(json!({"hold": 300})).go().failed(11);
    assert!(answer.took > Duration::from_millis(290) && answer.took < SOON, "{answer:?}");
    assert!(answer.stdout.contains("run-1"));
    assert!(world.take_log().is_empty());
    world.assert_clean();
}

#[test]
fn ends_by_itself_when_its_time_is_up() {
    let world = World::new();
    hold(&world, ours(), Duration::from_millis(400));
    let answer = world.add("c1").succeeded();
    assert!(answer.took > Duration::from_millis(300) && answer.took < SOON, "{answer:?}");
    assert_eq!(world.take_log()[0], "flannel ADD", "back to where it was before");
}

#[test]
fn ends_by_itself_when_its_owner_is_gone() {
    let world = World::new();
    let mut owner = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let started = cni_spec::process::started(owner.id());
    hold(&world, Owner { pid: owner.id(), started, ..ours() }, LONG);
    let shim = waiting(&world);
    owner.kill().unwrap();
    let killed = Instant::now();
    assert!(shim.wait_with_output().unwrap().status.success());
    assert!(killed.elapsed() < SOON);
    owner.wait().unwrap();
    assert_eq!(world.take_log()[0], "flannel ADD");
    // Another process with the same pid, or another boot, is another owner.
    for owner in [Owner { started: Some(1), ..ours() }, Owner { boot_id: "another".into(), ..ours() }] {
        hold(&world, owner, LONG);
        world.add("c2").succeeded();
        world.del("c2").succeeded();
    }
}

#[test]
fn the_runs_own_attachment_passes() {
    let world = World::new();
    hold(&world, ours(), LONG);
    let add = |run: &str| {
        world
            .call("ADD", "probe")
            .env("CNI_ARGS", &format!("{ARGS};NODECTL_RUN={run}"))
            .limits(json!({"hold": 100}))
            .go()
    };
    add("another-run").failed(11);
    add("run-1").succeeded();
    assert_eq!(world.take_log()[0], "calico ADD");
    world.del("probe").succeeded();
    world.assert_clean();
}

#[test]
fn a_del_takes_back_an_add_that_waits() {
    let world = World::new();
    hold(&world, ours(), LONG);
    let shim = waiting(&world);
    world.del("c1").succeeded();
    world.route(Backend::Calico);
    let output = shim.wait_with_output().unwrap();
    assert!(!output.status.success(), "nobody would ever delete it");
    assert!(world.take_log().is_empty());
    world.assert_clean();
}

#[test]
fn markers_of_killed_shims_are_swept() {
    let world = World::new();
    hold(&world, ours(), LONG);
    let mut shim = waiting(&world);
    shim.kill().unwrap();
    shim.wait().unwrap();
    assert!(holds::list(&world.paths()).unwrap().is_empty());
    world.del("c1").succeeded();
    world.assert_clean();
}

#[test]
fn a_new_hold_after_a_hold_keeps_waiting() {
    let world = World::new();
    hold(&world, ours(), LONG);
    let shim = waiting(&world);
    hold(&world, Owner::this_process("run-2"), LONG);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(holds::list(&world.paths()).unwrap().len(), 1);
    world.route(Backend::Flannel);
    assert!(shim.wait_with_output().unwrap().status.success());
    assert_eq!(world.take_log()[0], "flannel ADD");
}

#[test]
fn routes() {
    let state = State { mode: Mode::Hold, ..State::hold(Backend::Calico, Backend::Flannel, ours(), LONG) };
    // Not by the clock of the day, which somebody may set.
    let now = cni_store::file::since_boot_ms();
    assert!(state.deadline_boot_ms.unwrap().abs_diff(now + 600_000) < 60_000, "{state:?}");
    assert_eq!(state.route(None, now), Route::Wait);
    assert_eq!(state.route(Some("run-1"), now), Route::To(Backend::Flannel));
    assert_eq!(state.route(Some("run-2"), now), Route::Wait);
    assert_eq!(state.route(None, now + 700_000), Route::To(Backend::Calico));
    assert_eq!(State { owner: None, ..state }.route(None, now), Route::To(Backend::Calico));
    assert_eq!(State::routed(Backend::Calico).route(Some("run-1"), now), Route::To(Backend::Calico));
}
