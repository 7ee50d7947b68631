//! Where every node stands: once, until the roll is complete, and at each change.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use nodectl_lab::wait::eventually;
use serde_json::{Value, json};

use super::fixture::{Cluster, finished};

#[test]
fn status_says_where_every_node_stands() {
    let cluster = Cluster::start(2);
    cluster.run(&["prepare"]).exits(0);
    cluster.switch(1, "calico");
    let mixed = cluster.run(&["status"]).exits(2).json();
    assert_eq!(mixed["nodes"][0]["wanted"], "calico");
    assert_eq!(mixed["nodes"][0]["running"][0]["agent"], "calico");
    assert_eq!(mixed["nodes"][1]["running"][0]["agent"], "flannel");
    assert_eq!((&mixed["on"], &mixed["complete"]), (&json!(null), &json!(false)));
    cluster.switch(2, "calico");
    assert_eq!(cluster.run(&["status"]).exits(0).json()["on"], "calico");
    cluster.run(&["status", "--to", "calico"]).exits(0);
    cluster.run(&["status", "--to", "flannel"]).exits(2);
}

#[test]
fn waiting_ends_when_the_roll_is_complete_or_the_time_is_up() {
    let cluster = Cluster::start(1);
    cluster.run(&["prepare"]).exits(0);
    let begun = Instant::now();
    assert_eq!(cluster.run(&["status", "--wait", "1"]).exits(2).json()["on"], "flannel");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let waiting = cluster.command(&["status", "--wait", "60"]).spawn().unwrap();
    cluster.switch(1, "calico");
    assert_eq!(finished(waiting.wait_with_output().unwrap()).exits(0).json()["complete"], true);
    cluster.run(&["status", "--wait", "60"]).exits(0);
}

#[test]
fn watching_shows_each_change_until_the_roll_is_complete() {
    let cluster = Cluster::start(2);
    cluster.run(&["prepare"]).exits(0);
    let mut watching = cluster.command(&["status", "--watch"]).spawn().unwrap();
    let lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let (sender, seen) = std::sync::mpsc::channel::<Value>();
    let shown = std::thread::spawn(move || -> Vec<Value> {
        let all = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        all.inspect(|status| drop(sender.send(status.clone()))).collect()
    });
    assert_eq!(seen.recv().unwrap()["on"], "flannel");
    cluster.switch(1, "calico");
    eventually("the watch has seen the first node", || {
        seen.try_iter().any(|status| status["nodes"][0]["running"] == json!([{"agent": "calico", "state": "ready"}]))
    });
    cluster.switch(2, "calico");
    assert_eq!(watching.wait().unwrap().code(), Some(0));
    let shown = shown.join().unwrap();
    let on: Vec<&Value> = shown.iter().map(|status| &status["on"]).collect();
    assert!(
        on.len() >= 3 && on[0] == "flannel" && on[on.len() - 1] == "calico" && on.contains(&&json!(null)),
        "{on:?}"
    );
    assert!(shown.windows(2).all(|two| two[0] != two[1]), "nothing is shown twice");
}

#[test]
fn a_server_that_dies_ends_the_watch_with_an_error() {
    let cluster = Cluster::start(1);
    cluster.run(&["prepare"]).exits(0);
    let mut watching = cluster.command(&["status", "--watch"]).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(watching.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("flannel"), "{first}");
    assert_eq!(cluster.fixture.server.control.run("refuse"), "ok");
    let done = finished(watching.wait_with_output().unwrap()).exits(1);
    assert!(done.stderr.contains("cannot be reached"), "{}", done.stderr);
}
