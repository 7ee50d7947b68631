//! SIGKILL between any two writes.
//!
//! The backup passes two fault points, the first write the third one; killed at the fourth, a run has written once. So a
//! chain of such runs is broken off after every single write.

use nodectl_lab::wait::eventually;

use super::fixture::{Cluster, Done, finished, has_run, same, timeless};

/// Runs the command, killed after each write, until a run has nothing left to write; returns how many were killed.
fn killed_after_each_write(cluster: &Cluster, args: &[&str]) -> usize {
    for killed in 0..400 {
        let done: Done = finished(cluster.command(args).env("NODECTL_FAULT", "4").output().unwrap());
        match done.code {
            None => {}
            Some(0) => return killed,
            Some(code) => panic!("exit {code} after {killed} kills: {}{}", done.stdout, done.stderr),
        }
    }
    panic!("it never comes to an end");
}

#[test]
fn prepare_and_abort_killed_after_each_write() {
    let whole = Cluster::start(2);
    whole.run(&["prepare"]).exits(0);
    let cluster = Cluster::start(2);
    cluster.settle();
    let before = cluster.dump();
    let kills = killed_after_each_write(&cluster, &["prepare", "--parallel", "1"]);
    assert!(kills > 20, "{kills} kills: LAB_NODECTL has to name a build with --features fault-points");
    same(&timeless(&cluster.dump()), &timeless(&whole.dump()));
    killed_after_each_write(&cluster, &["abort", "--parallel", "1"]);
    same(&cluster.dump(), &before);
}

#[test]
fn killed_with_several_writes_on_their_way() {
    if has_run() {
        return;
    }
    let whole = Cluster::quiet(3);
    let before = whole.dump();
    whole.run(&["prepare"]).exits(0);
    let cluster = Cluster::quiet(3);
    let kills = killed_after_each_write(&cluster, &["prepare", "--parallel", "16"]);
    assert!(kills > 3, "{kills} kills");
    same(&timeless(&cluster.dump()), &timeless(&whole.dump()));
    killed_after_each_write(&cluster, &["abort", "--parallel", "16"]);
    same(&timeless(&cluster.dump()), &timeless(&before));
}

#[test]
fn prepare_killed_anywhere_can_be_aborted() {
    let cluster = Cluster::start(2);
    cluster.settle();
    let before = cluster.dump();
    for point in (3..36).step_by(3) {
        let done = finished(cluster.command(&["prepare"]).env("NODECTL_FAULT", point.to_string()).output().unwrap());
        assert!(matches!(done.code, None | Some(0)), "{}", done.stderr);
        cluster.run(&["abort"]).exits(0);
        same(&cluster.dump(), &before);
    }
}

#[test]
fn allow_and_pause_killed_after_each_write() {
    let cluster = Cluster::quiet(3);
    cluster.run(&["prepare", "--pace"]).exits(0);
    let waiting = cluster.dump();
    for parallel in ["1", "16"] {
        assert!(killed_after_each_write(&cluster, &["allow", "--all", "--parallel", parallel]) > 0);
        let allowed = cluster.dump();
        assert!(allowed.iter().filter(|line| line.contains("\"nodectl.io/pace\":\"allowed\"")).count() == 3);
        assert!(killed_after_each_write(&cluster, &["pause", "--parallel", parallel]) > 0);
        same(&cluster.dump(), &waiting);
    }
}

#[test]
fn finish_killed_after_each_write() {
    let end = |finish: &dyn Fn(&Cluster)| {
        let cluster = Cluster::start(2);
        cluster.run(&["prepare"]).exits(0);
        cluster.switch(1, "calico");
        cluster.switch(2, "calico");
        finish(&cluster);
        eventually("flannel's namespace is gone", || {
            cluster.admin().find("/api/v1/namespaces/kube-flannel").unwrap().is_none()
        });
        cluster.settle();
        timeless(&cluster.dump())
    };
    let whole = end(&|cluster| {
        cluster.run(&["finish"]).exits(0);
    });
    let broken = end(&|cluster| {
        assert!(killed_after_each_write(cluster, &["finish", "--parallel", "1"]) > 8);
    });
    same(&broken, &whole);
}
