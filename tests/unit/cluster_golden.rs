//! Golden folders: a cluster in, everything that prepare, finish or abort would print out, as text to be reviewed.
//!
//! A case is a folder with `case.json`: where it starts (`fresh`, `prepared`, `rolled`, each with `dual-stack-` before it for a cluster of both families, or with `canal-` for one on Canal), the edits to that, the
//! command, and its request. `UPDATE=1 cargo test -p nodectl --test cluster_golden` writes the texts anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "cluster_support/mod.rs"]
mod support;

use nodectl::cluster::facts::ClusterFacts;
use nodectl::cluster::report;
use nodectl::cluster::request::Request;
use nodectl::cluster::{abort, finish, pace, prepare, status};
use serde::Deserialize;
use serde_json::Value;
use support::{canal, converge, dry_run, dual_stack, fresh, now, request, switch};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(default)]
    start: String,
    #[serde(default)]
    edits: Vec<Edit>,
    command: String,
    #[serde(default)]
    request: Request,
}

/// A JSON pointer, and what is put there; `null` removes it, `/-` at the end appends.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    at: String,
    #[serde(default)]
    set: Value,
}

fn start(name: &str) -> ClusterFacts {
    let (mut facts, name) = match (name.strip_prefix("dual-stack"), name.strip_prefix("canal")) {
        (Some(name), _) => (dual_stack(), name.trim_start_matches('-')),
        (_, Some(name)) => (canal(), name.trim_start_matches('-')),
        (None, None) => (fresh(), name),
    };
    if name == "prepared" || name == "mixed" || name == "rolled" {
        converge(&mut facts, prepare::decide, &request());
    }
    if name == "mixed" || name == "rolled" {
        switch(&mut facts, "node1", "calico");
    }
    if name == "rolled" {
        switch(&mut facts, "node2", "calico");
    }
    facts
}

fn edited(facts: &ClusterFacts, edits: &[Edit]) -> ClusterFacts {
    let mut value = serde_json::to_value(facts).unwrap();
    for edit in edits {
        let (parent, key) = edit.at.rsplit_once('/').unwrap();
        let key = key.replace("~1", "/");
        match value.pointer_mut(parent) {
            Some(Value::Object(map)) if edit.set.is_null() => {
                drop(map.remove(&key).unwrap_or_else(|| panic!("nothing at {}", edit.at)))
            }
            Some(Value::Object(map)) => drop(map.insert(key, edit.set.clone())),
            Some(Value::Array(list)) if key == "-" => list.push(edit.set.clone()),
            Some(Value::Array(list)) if edit.set.is_null() => drop(list.remove(key.parse().unwrap())),
            Some(Value::Array(list)) => list[key.parse::<usize>().unwrap()] = edit.set.clone(),
            _ => panic!("nothing at {parent}"),
        }
    }
    serde_json::from_value(value).unwrap()
}

fn output(case: &Case) -> String {
    let facts = edited(&start(&case.start), &case.edits);
    let request = Request { now: now(), ..case.request.clone() };
    match case.command.as_str() {
        "prepare" => report::run_text(&dry_run("prepare", &prepare::decide(&facts, &request))),
        "finish" => report::run_text(&dry_run("finish", &finish::decide(&facts, &request))),
        "abort" => report::run_text(&dry_run("abort", &abort::decide(&facts, &request))),
        "allow" => report::run_text(&dry_run("allow", &pace::allow(&facts, &request))),
        "pause" => report::run_text(&dry_run("pause", &pace::pause(&facts, &request))),
        "status" => report::status_text(&status::status(&facts, None)),
        other => panic!("unknown command {other}"),
    }
}

#[test]
fn every_case() {
    let mut cases: Vec<_> = std::fs::read_dir(support::folder()).unwrap().map(|e| e.unwrap().path()).collect();
    cases.retain(|path| path.is_dir());
    cases.sort();
    assert!(cases.len() > 40, "there are more cases than {}", cases.len());
    let mut wrong = Vec::new();
    for folder in cases {
        let case: Case = support::read(&folder.join("case.json"));
        let (path, text) = (folder.join("output.txt"), output(&case));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        if std::fs::read_to_string(&path).unwrap_or_default() != text {
            wrong.push(format!("{}:\n{text}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "these differ (UPDATE=1 writes them anew):\n{}", wrong.join("\n"));
}
