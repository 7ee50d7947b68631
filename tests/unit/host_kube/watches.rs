//! Watches: resumed where they ended, listed anew where the server has forgotten, given up when it is dead.

use std::ops::ControlFlow;
use std::time::Duration;

use nodectl::host::kube::News;
use serde_json::{Value, json};

use crate::pair;
use crate::tls_server::{Answer, ok, status};

const QUIET: Duration = Duration::from_secs(2);

fn node(name: &str, version: &str) -> Value {
    json!({"metadata": {"name": name, "resourceVersion": version}})
}

fn list(version: &str, items: &[Value]) -> Answer {
    ok(json!({"kind": "NodeList", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}))
}

fn events(events: &[(&str, Value)]) -> Answer {
    let lines: Vec<String> =
        events.iter().map(|(kind, object)| json!({"type": kind, "object": object}).to_string() + "\n").collect();
    (200, Vec::new(), lines.concat())
}

/// What was told, in short.
fn note(told: &mut Vec<String>, news: News<'_>) {
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
    match news {
        News::All(items) => told.push(format!("all {}", items.iter().map(name).collect::<Vec<_>>().join(" "))),
        News::Changed(object) => told.push(format!("changed {}", name(object))),
        News::Gone(object) => told.push(format!("gone {}", name(object))),
        News::Quiet => {}
    }
}

#[test]
fn a_watch_goes_on_where_its_stream_ended_and_lists_anew_after_410() {
    let (server, kube, _directory) = pair(|n, _| match n {
        0 => list("5", &[node("a", "3")]),
        1 => events(&[("ADDED", node("b", "6")), ("BOOKMARK", node("", "8")), ("DELETED", node("a", "9"))]),
        // In the middle of a line.
        2 => (200, Vec::new(), "{\"type\":\"MODIFIED\",\"object\":{\"metada".to_owned()),
        3 => events(&[("ERROR", json!({"kind": "Status", "code": 410, "reason": "Expired"}))]),
        4 => list("20", &[node("b", "15")]),
        5 => status(410, "Expired", "too old resource version"),
        6 => list("30", &[node("c", "25")]),
        _ => events(&[("MODIFIED", node("c", "31"))]),
    });
    let mut told = Vec::new();
    kube.watch("/api/v1/nodes", &[("labelSelector", "x")], QUIET, |news| {
        note(&mut told, news);
        if told.last().is_some_and(|t| t == "changed c") { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    assert_eq!(told, ["all a", "changed b", "gone a", "all b", "all c", "changed c"]);
    let seen = server.seen();
    let from =
        |n: usize| seen[n].target.split("resourceVersion=").nth(1).map(|t| t.split('&').next().unwrap().to_owned());
    assert_eq!([1, 2, 3, 5, 7].map(|n| from(n).unwrap()), ["5", "9", "9", "20", "30"]);
    for n in [1, 2, 3, 5, 7] {
        let target = &seen[n].target;
        assert!(target.contains("watch=1") && target.contains("labelSelector=x"), "{target}");
        assert!(target.contains("allowWatchBookmarks=true") && target.contains("timeoutSeconds=2"), "{target}");
    }
}

#[test]
fn a_broken_stream_a_busy_server_and_a_rotation_are_overcome() {
    let (server, kube, _directory) = pair(|n, _| match n {
        0 => list("1", &[]),
        1 => (0, Vec::new(), String::new()),
        2 => status(503, "ServiceUnavailable", "not yet"),
        3 => status(401, "Unauthorized", "Unauthorized"),
        4 => events(&[("ADDED", node("a", "2"))]),
        _ => status(401, "Unauthorized", "Unauthorized"),
    });
    let mut told = Vec::new();
    let error = kube.watch("/api/v1/nodes", &[], QUIET, |news| {
        note(&mut told, news);
        ControlFlow::Continue(())
    });
    // Credentials that are refused twice running are no good.
    assert!(error.unwrap_err().is_unauthorized());
    assert_eq!((told, server.seen().len()), (vec!["all ".to_owned(), "changed a".to_owned()], 7));
}

#[test]
fn a_server_that_died_ends_the_watch_when_patience_does() {
    let (_server, kube, _directory) = pair(|n, _| match n {
        0 => list("1", &[]),
        _ => (0, Vec::new(), String::new()),
    });
    let begun = std::time::Instant::now();
    let kube = kube.patience(Duration::from_millis(800));
    let error = kube.watch("/api/v1/nodes", &[], QUIET, |_| ControlFlow::Continue(())).unwrap_err();
    assert!(error.is_unreachable() && begun.elapsed() < Duration::from_secs(6), "{error}");
}

#[test]
fn whoever_waits_is_told_that_nothing_happens() {
    let (_server, kube, _directory) = pair(|n, _| if n == 0 { list("1", &[]) } else { events(&[]) });
    let mut quiet = 0;
    kube.watch("/api/v1/nodes", &[], QUIET, |news| {
        quiet += usize::from(news == News::Quiet);
        if quiet == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
}
