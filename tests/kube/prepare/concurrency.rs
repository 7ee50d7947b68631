//! Others who write at the same time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use super::fixture::{Cluster, finished, same, timeless};

const FELIX: &str = "/apis/crd.projectcalico.org/v1/felixconfigurations/default";

#[test]
fn several_prepares_at_once_come_to_the_same() {
    let whole = Cluster::start(2);
    whole.run(&["prepare"]).exits(0);
    let cluster = Cluster::start(2);
    let children: Vec<_> = (0..4).map(|_| cluster.command(&["prepare"]).spawn().unwrap()).collect();
    for child in children {
        finished(child.wait_with_output().unwrap()).exits(0);
    }
    same(&timeless(&cluster.dump()), &timeless(&whole.dump()));
}

/// Runs `work` while something else writes all the time.
fn meanwhile(write: impl Fn(u32) + Sync, work: impl FnOnce()) {
    let stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for count in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                write(count);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        // A failed assertion must not leave the writer running for ever.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stopped.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn writers_of_other_fields_are_neither_stopped_nor_lost() {
    let cluster = Cluster::start(2);
    let heartbeat = |count: u32| {
        for index in 1..=2 {
            cluster.patch(
                &format!("/api/v1/nodes/node{index}"),
                &json!({"metadata": {"annotations": {"beat": count.to_string()}}}),
            );
        }
    };
    meanwhile(heartbeat, || {
        cluster.run(&["prepare"]).exits(0);
    });
    assert!(cluster.node(1)["metadata"]["annotations"]["beat"].is_string());
    assert!(cluster.node(1)["metadata"]["annotations"]["nodectl.io/prepared"].is_string());
    meanwhile(heartbeat, || {
        cluster.run(&["abort"]).exits(0);
    });
    assert!(cluster.node(1)["metadata"]["annotations"].get("nodectl.io/prepared").is_none());
}

#[test]
fn somebody_who_undoes_what_is_written_is_found_out() {
    let cluster = Cluster::start(1);
    cluster.run(&["prepare"]).exits(0);
    let undo = |_| {
        if cluster.admin().get(FELIX).unwrap()["spec"]["vxlanVNI"] != 4096 {
            cluster.patch(FELIX, &json!({"spec": {"vxlanVNI": 4096}}));
        }
    };
    undo(0);
    // What is read back is what was made of it, however fast this machine is. A real server is slow enough, and takes no such word.
    let slow = "slow 80 agent=nodectl/ method=GET /apis/crd.projectcalico.org/v1/felixconfigurations";
    drop(cluster.fixture.server.control.run(slow));
    meanwhile(undo, || {
        let failed = cluster.run(&["prepare"]).exits(5);
        assert!(failed.stderr.contains("FelixConfiguration default"), "{}", failed.stderr);
        assert!(failed.stderr.contains("To fix it"), "{}", failed.stderr);
    });
}
