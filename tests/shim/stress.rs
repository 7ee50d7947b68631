//! Many at once, and killed at any point (a seeded sample; 300 times where every case is wanted).

use crate::common::{SOON, World, is_full, seed, wait_for};
use cni_store::backends::Backends;
use cni_store::lock;
use cni_store::pending::{Outcome, Pending};
use cni_store::record::Record;
use cni_store::state::{Backend, Owner, State};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[test]
fn row_22_hundred_concurrent_adds_during_a_flip() {
    let world = World::new();
    world.route(Backend::Flannel);
    let adds: Vec<_> = (0..100)
        .map(|i| {
            match i {
                30 => {
                    let owner = Owner::this_process("run");
                    let hold = State::hold(Backend::Flannel, Backend::Calico, owner, Duration::from_secs(60));
                    hold.store(&world.paths()).unwrap();
                    // From here on no ADD begins on flannel: what has begun is recorded.
                }
                70 => world.route(Backend::Calico),
                _ => {}
            }
            world.call("ADD", &format!("c{i}")).spawn()
        })
        .collect();
    for add in adds {
        let output = add.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let ends: BTreeMap<_, _> = Record::list(&world.paths())
        .unwrap()
        .0
        .into_iter()
        .map(|record| (record.container_id, record.backend))
        .collect();
    assert_eq!(ends.len(), 100);
    let calico = ends.values().filter(|backend| **backend == Backend::Calico).count();
    assert!(calico >= 70, "{calico}: those that came in or after the hold");
    let dels: Vec<_> = ends.keys().map(|id| world.call("DEL", id).spawn()).collect();
    for del in dels {
        assert!(del.wait_with_output().unwrap().status.success());
    }
    // Every sandbox was handled by one backend alone, in order.
    let mut by_sandbox = BTreeMap::<_, Vec<_>>::new();
    for call in world.calls() {
        by_sandbox.entry(call.container_id.clone()).or_default().push(format!("{} {}", call.kind, call.verb));
    }
    for (id, calls) in by_sandbox {
        match ends[&id] {
            Backend::Flannel => assert_eq!(calls, ["flannel ADD", "portmap ADD", "portmap DEL", "flannel DEL"], "{id}"),
            Backend::Calico => {
                assert_eq!(calls, ["calico ADD", "bandwidth ADD", "bandwidth DEL", "calico DEL"], "{id}")
            }
        }
    }
    world.assert_clean();
}

/// Every ADD that begins after a change has returned sees it, and every ADD that saw the state before it is recorded by then.
#[test]
fn row_13_and_22_adds_and_changes_of_the_state_are_one_after_the_other() {
    let world = World::new();
    world.route(Backend::Flannel);
    let (adds, lanes) = if is_full() { (400, 4) } else { (80, 4) };
    let records = || Record::list(&world.paths()).unwrap().0;
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for lane in 0..lanes {
            let (world, done) = (&world, &done);
            scope.spawn(move || {
                for n in 0..adds / lanes {
                    world.add(&format!("l{lane}n{n}")).succeeded();
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        let mut flips = 0;
        while done.load(Ordering::Relaxed) < lanes {
            let backend = if flips % 2 == 0 { Backend::Calico } else { Backend::Flannel };
            world.route(backend);
            let before: BTreeSet<_> = records().into_iter().map(|record| record.container_id).collect();
            let until = Instant::now() + Duration::from_millis(200);
            let mut since = Vec::new();
            while since.len() < 2 && Instant::now() < until {
                since = records();
                since.retain(|record| !before.contains(&record.container_id));
            }
            assert!(since.iter().all(|record| record.backend == backend), "after flip {flips} to {backend}: {since:?}");
            flips += 1;
        }
        assert!(flips > 8, "{flips}");
    });
    assert_eq!(records().len(), adds);
}

#[test]
fn row_22_an_add_holds_the_states_lock_only_while_it_reads_it_and_writes_its_intent() {
    let world = World::new();
    world.route(Backend::Flannel);
    let shim = world.begin_add("c1");
    let held = lock::state(&world.paths(), true, SOON).expect("nobody holds it while delegates run");
    world.write("go", "");
    assert!(shim.wait_with_output().unwrap().status.success(), "nor is it wanted again");
    // While it is held, an ADD has not begun: it goes where the state says then.
    let later = world.call("ADD", "c2").spawn();
    std::thread::sleep(Duration::from_millis(300));
    assert!(world.record("c2").is_none());
    let copy = world.paths().state_dir().join("another/state.json");
    State::routed(Backend::Calico).store(&cni_store::Paths::new("/", copy.parent().unwrap())).unwrap();
    std::fs::rename(copy, world.paths().state()).unwrap();
    drop(held);
    assert!(later.wait_with_output().unwrap().status.success());
    assert_eq!(world.record("c2").unwrap().backend, Backend::Calico);
}

#[test]
fn writers_of_the_state_are_one_after_the_other() {
    let world = World::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    State::change(&world.paths(), |state| Ok(state.unwrap_or(State::routed(Backend::Flannel))))
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(State::load(&world.paths()).unwrap().unwrap().generation, 100);
}

/// What a scripted network leaves: a file per sandbox and plugin, made by ADD and removed by DEL.
fn with_leftovers(world: &World) {
    std::fs::create_dir_all(world.path("made")).unwrap();
    for kind in ["flannel", "portmap"] {
        world.tell(
            &format!("{kind}.ADD"),
            "sleep 0.00$(( $$ % 10 )); echo > $world/made/$CNI_CONTAINERID.$kind; sleep 0.00$(( $$ % 7 ))",
        );
        world.tell(&format!("{kind}.DEL"), "sleep 0.00$(( $$ % 10 )); rm -f $world/made/$CNI_CONTAINERID.$kind");
    }
}

#[test]
fn killed_at_any_point_nothing_leaks() {
    let world = World::new();
    with_leftovers(&world);
    let rounds = if is_full() { 300 } else { 60 };
    let mut seed = 0x2545_f491_4f6c_dd1d_u64.wrapping_add(seed());
    let mut ids = BTreeSet::new();
    for round in 0..rounds {
        let id = format!("k{round}");
        let verb = if round % 2 == 0 { "ADD" } else { "DEL" };
        if verb == "DEL" {
            world.add(&id).succeeded();
        }
        let mut shim = world.call(verb, &id).spawn();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_micros(seed >> 33 & 0x7fff));
        shim.kill().unwrap();
        shim.wait().unwrap();
        ids.insert(id);
    }
    // The runtime sends one DEL for some of them; nodectl's reaper sees to the rest.
    for id in ids.iter().step_by(3) {
        world.del(id).succeeded();
    }
    for record in Record::list(&world.paths()).unwrap().0 {
        let error = cni_spec::Error::new(11, "the sandbox is gone", "");
        Pending::note(&world.paths(), &record.container_id, &record.ifname, Some(&record), &error).unwrap();
    }
    for pending in Pending::list(&world.paths()).unwrap().0 {
        wait_for("the delegates that were left behind", || {
            pending.run(&world.paths(), &Backends::default(), "", SOON, Duration::from_secs(5)).unwrap()
                == Outcome::Done
        });
    }
    let left: Vec<_> = std::fs::read_dir(world.path("made")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
    let records = Record::list(&world.paths()).unwrap();
    assert!(records.0.is_empty() && records.1.is_empty());
    let files = std::fs::read_dir(world.paths().attachments()).unwrap().count();
    assert_eq!(files, 0, "not even a temporary file");
    cni_store::lock::sweep(&world.paths()).unwrap();
    world.assert_clean();
}

#[test]
fn row_06_what_a_killed_delegate_has_started_ends_before_the_undoing() {
    let world = World::new();
    // An IPAM plugin that would reserve its address after the DEL.
    world.tell("portmap.ADD", "sh -c \"sleep 0.4; echo > $world/late\" & kill -9 $$");
    world.tell("portmap.DEL", "[ ! -e $world/late ] || fail 9 late ''; echo > $world/undone");
    world.add("c1").failed(999);
    assert!(world.path("undone").exists());
    std::thread::sleep(Duration::from_millis(600));
    assert!(!world.path("late").exists(), "it worked on after the chain was undone");
    world.assert_clean();
}

#[test]
fn row_06_a_delegate_that_is_killed_is_undone() {
    let world = World::new();
    with_leftovers(&world);
    for (round, whom) in ["flannel.ADD", "portmap.ADD"].iter().enumerate() {
        let kept = std::fs::read_to_string(world.path("do").join(whom)).unwrap();
        world.tell(whom, "echo > $world/made/$CNI_CONTAINERID.$kind; kill -9 $$");
        world.add(&format!("d{round}")).failed(999);
        world.tell(whom, &kept);
    }
    assert_eq!(std::fs::read_dir(world.path("made")).unwrap().count(), 0);
    world.assert_clean();
}
