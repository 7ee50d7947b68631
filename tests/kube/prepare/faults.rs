//! An API server that fails: a run ends well, or with a clear error and nothing half-done that a second run would
//! not finish.

use super::fixture::{Cluster, same, timeless};

/// A fault, and whether one run must get over it alone.
const FAULTS: [(&str, bool); 9] = [
    ("429 times=2", true),
    ("500 times=2", false),
    ("503 times=2", true),
    ("409 times=1", false),
    ("409 method=PATCH times=3", true),
    ("reset times=1", false),
    ("lose times=1", false),
    ("lose method=POST times=3", false),
    ("slow 20 times=50", true),
];

const PREFIXES: [&str; 3] =
    ["/api/v1/nodes/", "/apis/crd.projectcalico.org/v1/", "/apis/apps/v1/namespaces/kube-flannel/"];

#[test]
fn passing_faults_do_not_stop_it_for_good() {
    let whole = Cluster::stand_in(1);
    whole.run(&["prepare"]).exits(0);
    let wanted = timeless(&whole.dump());
    let full = std::env::var_os("NODECTL_TESTS_FULL").is_some();
    for (at, (fault, alone)) in FAULTS.into_iter().enumerate() {
        for (nth, prefix) in PREFIXES.into_iter().enumerate() {
            // One of them for each fault in a quick run.
            if !full && nth != at % PREFIXES.len() {
                continue;
            }
            let cluster = Cluster::stand_in(1);
            let (kind, rest) = fault.split_once(' ').unwrap();
            let command = match kind {
                "slow" => format!("slow 20 {prefix} {}", rest.trim_start_matches("20 ")),
                kind => format!("{kind} {prefix} {rest}"),
            };
            assert_eq!(cluster.fixture.server.control.run(&command), "ok", "{command}");
            let done = cluster.run(&["prepare"]);
            if done.code != Some(0) {
                assert!(!alone, "{command}: {}", done.stderr);
                assert!(done.stderr.contains("https://127.0.0.1"), "{command}: {}", done.stderr);
                assert_eq!(cluster.fixture.server.control.run("ok"), "ok");
                cluster.run(&["prepare"]).exits(0);
            }
            same(&timeless(&cluster.dump()), &wanted);
        }
    }
}

#[test]
fn a_dead_server_is_an_error_within_its_time() {
    let cluster = Cluster::start(1);
    assert_eq!(cluster.fixture.server.control.run("refuse"), "ok");
    let started = std::time::Instant::now();
    let failed = cluster.run(&["prepare"]).exits(1);
    assert!(started.elapsed().as_secs() < 60);
    assert!(failed.stderr.contains("https://127.0.0.1"), "{}", failed.stderr);
}
