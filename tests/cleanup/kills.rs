//! SIGKILL in the middle of a cleanup, at every kind of place where it changes something: the next run finishes the job.

#[path = "support/mod.rs"]
mod support;

use nodectl_lab::fixture::{CALICO, FLANNEL, FOREIGN};
use nodectl_lab::scenario::{full, sample};
use support::Ground;

/// In full, each script is killed so many times at least: a hundred times in all.
const TIMES: usize = 25;

/// Kills at some of the places that a whole run passes, or at each of them.
fn killed(flag: &str, script: &str, count: usize, salt: u64) {
    let log = "/tmp/points";
    let ground = Ground::with(FOREIGN);
    // Once before the places are counted: the first run on a node passes some that no later one does.
    ground.build(script);
    ground.must(&[flag, "--yes"], 0);
    ground.build(&format!("rm -rf /var/lib/nodectl\n{script}"));
    let whole = format!("NODECTL_FAULT_LOG={log} nodectl cleanup {flag} --yes");
    ground.node().sh(&whole).unwrap();
    let points = ground.node().sh(&format!("cat {log} 2>/dev/null | wc -l")).unwrap().trim().parse().unwrap_or(0);
    assert!(points > 5, "this nodectl has no fault points: build it with the feature (tests/README.md)");
    let places = sample(&(1..=points).collect::<Vec<usize>>(), count, salt);
    let times = if full() { places.len().max(TIMES) } else { places.len() };
    for place in places.iter().cycle().take(times) {
        ground.build(&format!("rm -rf /var/lib/nodectl\n{script}"));
        let mut command = ground.node().command(&["nodectl", "cleanup", flag, "--yes"]).unwrap();
        command.env("NODECTL_FAULT", place.to_string());
        let done = nodectl_lab::command::output(&mut command, "").unwrap();
        assert_eq!(done.code, 137, "killed at {place} of {points}: {}{}", done.stdout, done.stderr);
        ground.must(&[flag, "--yes"], 0);
        let left = ground.foreign.diff(&ground.snapshot());
        assert!(left.is_empty(), "killed at {place} of {points}:\n{}", left.join("\n"));
        let open = ground.node().sh("ls /var/lib/nodectl/cleanups 2>/dev/null | grep -c open.json || true").unwrap();
        assert_eq!(open, "0\n", "killed at {place}: a record is open still");
    }
}

/// The same script again and again on one node: what it makes besides kernel objects has to be made anew.
fn again(text: &str) -> String {
    format!("for n in $(ip netns list | cut -d' ' -f1 | grep -E '^(flpod|calpod)'); do ip netns del $n; done\n{text}")
}

#[test]
fn the_next_run_finishes_what_a_kill_has_left_of_flannel() {
    let (many, few) = if full() { (usize::MAX, usize::MAX) } else { (2, 3) };
    killed("--flannel", &again(FLANNEL[0].1), many, 1);
    killed("--flannel", &again(FLANNEL[1].1), few, 2);
}

#[test]
fn the_next_run_finishes_what_a_kill_has_left_of_calico() {
    let (many, few) = if full() { (usize::MAX, usize::MAX) } else { (3, 2) };
    killed("--calico", &again(CALICO[1].1), many, 3);
    killed("--calico", &again(CALICO[2].1), few, 4);
}
