//! Watches: what they send, where they resume, and when they say 410.

use std::sync::mpsc;
use std::time::Duration;

use nodectl_lab::apiserver::Regime;
use nodectl_lab::client::{Client, Event, Patch};
use serde_json::{Value, json};

use super::support::{Fixture, code, pod, pods};

/// Follows a watch in a thread of its own.
fn follow(client: &Client, path: &str) -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel();
    let watch = client.watch(path).unwrap();
    std::thread::spawn(move || {
        for event in watch.map_while(Result::ok) {
            if sender.send(event).is_err() {
                return;
            }
        }
    });
    receiver
}

fn next(events: &mpsc::Receiver<Event>) -> (String, Value) {
    let event = events.recv_timeout(Duration::from_secs(5)).expect("no event came");
    (event.kind, event.object)
}

#[test]
fn a_watch_follows_an_object_into_its_selector_and_out_of_it() {
    let fixture = Fixture::bare();
    let admin = &fixture.admin;
    admin.create(&pods(""), &pod("a", "n1")).unwrap();
    let events = follow(admin, "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1&labelSelector=app");
    assert_eq!(next(&events).0, "ADDED");
    admin.create(&pods(""), &pod("b", "n2")).unwrap();
    admin.create(&pods(""), &pod("c", "")).unwrap();
    let binding = |name: &str| json!({"metadata": {"name": name}, "target": {"name": "n1"}});
    assert_eq!(code(admin.create(&format!("{}/binding", pods("c")), &binding("other"))), 400);
    admin.create(&format!("{}/binding", pods("c")), &binding("c")).unwrap();
    let (kind, object) = next(&events);
    assert_eq!((kind.as_str(), &object["metadata"]["name"]), ("ADDED", &json!("c")));
    let status = json!({"status": {"phase": "Running"}});
    admin.patch(&format!("{}/status", pods("c")), Patch::Merge, &status).unwrap();
    assert_eq!(next(&events).0, "MODIFIED");
    admin.patch(&pods("c"), Patch::Merge, &json!({"metadata": {"labels": null}})).unwrap();
    assert_eq!(next(&events).0, "DELETED");
    admin.delete_with(&pods("a"), &json!({"gracePeriodSeconds": 0})).unwrap();
    for expected in ["MODIFIED", "DELETED"] {
        let (kind, object) = next(&events);
        assert_eq!((kind.as_str(), &object["metadata"]["name"]), (expected, &json!("a")));
        assert_eq!(object["metadata"]["deletionGracePeriodSeconds"], 0);
    }
}

#[test]
fn a_watch_resumes_where_it_ended_and_says_410_when_that_is_forgotten() {
    let fixture = Fixture::bare();
    let admin = &fixture.admin;
    let first = admin.create(&pods(""), &pod("a", "")).unwrap();
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    admin.create(&pods(""), &pod("b", "")).unwrap();
    let path = format!("{}?resourceVersion={version}&timeoutSeconds=1", pods(""));
    let names: Vec<Value> =
        admin.watch(&path).unwrap().map(|event| event.unwrap().object["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["b"]);
    assert_eq!(code(admin.watch(&format!("{}?resourceVersion=x", pods(""))).map(drop)), 500);
    if fixture.server.is_real() {
        eprintln!("skipped: a real server forgets when it wants to; what it does then, a restart of it shows");
        return;
    }
    assert_eq!(fixture.server.control.run("compact"), "ok");
    let error = admin.watch(&path).unwrap().next().unwrap().unwrap_err();
    assert_eq!((error.code, error.reason.as_str()), (410, "Expired"));
}

#[test]
fn initial_events_can_be_asked_for_from_the_newer_server_only() {
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1";
    let query = |fixture: &Fixture| fixture.admin.watch(&format!("{}?{query}", pods("")));
    if let Some(old) = Fixture::of(Regime::V1_20) {
        assert_eq!(code(query(&old).map(drop)), 422);
    }
    let Some(fixture) = Fixture::of(Regime::V1_36) else { return };
    fixture.admin.create(&pods(""), &pod("a", "")).unwrap();
    let events: Vec<Event> = query(&fixture).unwrap().map(Result::unwrap).collect();
    assert_eq!(events[0].kind, "ADDED");
    assert_eq!(
        (events[1].kind.as_str(), &events[1].object["metadata"]["annotations"]["k8s.io/initial-events-end"]),
        ("BOOKMARK", &json!("true"))
    );
}

#[test]
fn a_watch_of_one_name_shows_no_other_and_a_path_with_a_name_is_no_watch() {
    let fixture = Fixture::bare();
    for name in ["a", "b"] {
        fixture.admin.create(&pods(""), &pod(name, "")).unwrap();
    }
    let path = format!("{}?fieldSelector=metadata.name%3Da&timeoutSeconds=1", pods(""));
    let events: Vec<Event> = fixture.admin.watch(&path).unwrap().map(Result::unwrap).collect();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].object["metadata"]["name"], "a");
    assert_eq!(fixture.admin.get(&format!("{}?watch=1", pods("a"))).unwrap()["kind"], "Pod");
}
