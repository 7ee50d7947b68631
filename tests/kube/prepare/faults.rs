//! An API server that fails: a run ends well, or with a clear error and nothing half-done that a second run would
//! not finish.

use std::borrow::Borrow;

use nodectl_lab::scenario::{full, sample};
use serde_json::json;

use super::fixture::{Cluster, has_run, same, timeless};

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
    if has_run() {
        return;
    }
    let whole = Cluster::stand_in(1);
    whole.run(&["prepare"]).exits(0);
    let wanted = timeless(&whole.dump());
    let full = full();
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

/// What happens to one single request of a run.
const ONCE: [&str; 11] =
    ["429", "429 bare", "500", "503", "503 bare", "504", "409", "401", "reset", "lose", "slow 300"];

/// How many requests a run makes.
fn requests(cluster: &Cluster, args: &[&str]) -> usize {
    let control = &cluster.fixture.server.control;
    assert_eq!(control.run("slow 0 agent=nodectl/ times=1000000"), "ok");
    cluster.run(args).exits(0);
    let shown = control.run("show");
    let left = shown.split("times: Some(").nth(1).and_then(|rest| rest.split(')').next()?.parse::<usize>().ok());
    assert_eq!(control.run("ok"), "ok");
    1_000_000 - left.unwrap_or_else(|| panic!("{shown}"))
}

/// Runs the command with one request spoilt: it succeeds, or says what failed.
fn spoilt(cluster: &Cluster, args: &[&str], fault: &str, at: usize) {
    let control = &cluster.fixture.server.control;
    assert_eq!(control.run(&format!("{fault} agent=nodectl/ skip={at} times=1")), "ok", "{fault}");
    let done = cluster.run(args);
    assert_eq!(control.run("ok"), "ok");
    let said = done.stderr.contains("https://127.0.0.1");
    assert!(done.code == Some(0) || (matches!(done.code, Some(1 | 5)) && said), "{fault} at {at}: {done:?}");
}

#[test]
fn a_fault_at_any_call_ends_well_or_is_said_and_the_next_run_finishes() {
    if has_run() {
        return;
    }
    let cluster = Cluster::quiet(2);
    let [prepares, aborts] = [requests(&cluster, &PREPARE), requests(&cluster, &["abort"])];
    assert!(prepares > 40 && aborts > 30, "{prepares} {aborts}");
    let places = |count: usize| ONCE.iter().flat_map(move |fault| (0..count).map(move |at| (*fault, at)));
    let mut cases: Vec<_> = places(prepares).map(|(fault, at)| ("prepare", fault, at)).collect();
    cases.extend(places(aborts).map(|(fault, at)| ("abort", fault, at)));
    let cases = sample(&cases, 30, 5);
    // Most of its time a run waits for its next attempt: of all of them, several go at once.
    let lanes = if full() { 6 } else { 1 };
    std::thread::scope(|scope| {
        for share in cases.chunks(cases.len().div_ceil(lanes)) {
            scope.spawn(|| prepared_and_aborted(share));
        }
    });
}

const PREPARE: [&str; 2] = ["prepare", "--pace"];

/// One cluster, prepared and taken back for each of these faults, in one of the two.
fn prepared_and_aborted(cases: &[(&str, &str, usize)]) {
    let cluster = Cluster::quiet(2);
    let before = cluster.dump();
    cluster.run(&PREPARE).exits(0);
    let prepared = timeless(&cluster.dump());
    cluster.run(&["abort"]).exits(0);
    for &(command, fault, at) in cases {
        if command == "prepare" {
            spoilt(&cluster, &PREPARE, fault, at);
        }
        cluster.run(&PREPARE).exits(0);
        same(&timeless(&cluster.dump()), &prepared);
        if command == "abort" {
            spoilt(&cluster, &["abort"], fault, at);
        }
        cluster.run(&["abort"]).exits(0);
        same(&cluster.dump(), &before);
    }
}

/// Spoils single requests of a command on clusters that `begin` hands over; a second run comes to the same as one that nothing
/// was wrong with. The command makes more requests than `least`.
fn spoilt_anywhere<C: Borrow<Cluster>>(args: &[&str], least: usize, salt: u64, begin: impl Fn() -> C) {
    let whole = begin();
    let count = requests(whole.borrow(), args);
    assert!(count > least, "{args:?}: {count} requests");
    let wanted = timeless(&whole.borrow().dump());
    let cases: Vec<(&str, usize)> = ONCE.iter().flat_map(|fault| (0..count).map(move |at| (*fault, at))).collect();
    for (fault, at) in sample(&cases, 12, salt) {
        let begun = begin();
        let cluster = begun.borrow();
        spoilt(cluster, args, fault, at);
        cluster.run(args).exits(0);
        same(&timeless(&cluster.dump()), &wanted);
    }
}

#[test]
fn a_fault_at_any_call_of_allow_and_pause() {
    if has_run() {
        return;
    }
    let cluster = Cluster::quiet(3);
    cluster.run(&["prepare", "--pace"]).exits(0);
    let after = |args: &'static [&str]| {
        let cluster = &cluster;
        move || {
            cluster.run(args).exits(0);
            cluster
        }
    };
    spoilt_anywhere(&["allow", "--all"], 6, 6, after(&["pause"]));
    spoilt_anywhere(&["pause"], 6, 7, after(&["allow", "--all"]));
}

#[test]
fn a_fault_at_any_call_of_finish() {
    if has_run() {
        return;
    }
    spoilt_anywhere(&["finish"], 30, 8, || Cluster::rolled(2));
}

#[test]
fn credentials_and_certificates_that_are_no_good_are_said_and_nothing_is_written() {
    if has_run() {
        return;
    }
    let cluster = Cluster::quiet(1);
    let before = cluster.dump();
    let url = cluster.fixture.server.url();
    let good = std::fs::read_to_string(cluster.fixture.path("admin.conf")).unwrap();
    let authority = cluster.fixture.server.pki.ca().unwrap();
    let other = tempfile::tempdir().unwrap();
    let foreign = nodectl_lab::pki::Pki::open_or_create(other.path()).unwrap();
    let kubeconfig = |user: &serde_json::Value| {
        json!({"apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "c", "cluster": {"server": url, "certificate-authority": "ca.crt"}}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "it", "context": {"cluster": "c", "user": "u"}}]})
        .to_string()
    };
    let foreign = foreign.ca().unwrap();
    for (authority, user, said) in [
        (&authority, json!({"token": "expired"}), "have not expired"),
        (&authority, json!({}), "got no credentials from us"),
        (&foreign, json!({"token": "x"}), "no secure connection"),
    ] {
        std::fs::write(cluster.fixture.path("ca.crt"), authority).unwrap();
        std::fs::write(cluster.fixture.path("admin.conf"), kubeconfig(&user)).unwrap();
        let failed = cluster.run(&["prepare"]).exits(1);
        assert!(failed.stderr.contains(said) && failed.stderr.contains("To fix it: "), "{}", failed.stderr);
    }
    std::fs::write(cluster.fixture.path("admin.conf"), good).unwrap();
    same(&cluster.dump(), &before);
    cluster.run(&["prepare"]).exits(0);
}
