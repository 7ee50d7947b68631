//! Golden folders: a node's facts in; plan, undo and preflight's findings out, as text to be reviewed.
//!
//! `UPDATE=1 cargo test -p nodectl --test golden_plans` writes them anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::path::{Path, PathBuf};

use nodectl::facts::Facts;
use nodectl::journal::{Course, Debt, Log, Outcome, Record};
use nodectl::plan;
use nodectl::preflight::{self, Verdict};
use nodectl::request::{Request, Strategy};
use nodectl::step::{Before, Step, UndoDue};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/plans")
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Compares with the file, or writes it.
fn golden(path: &Path, text: &str) {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, text).unwrap();
    }
    let wanted = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(wanted, text, "{} differs; UPDATE=1 writes it anew", path.display());
}

fn plan_and_undo(facts: &Facts, request: &Request) -> (String, String) {
    match plan::plan(facts, request) {
        Err(refusal) => (format!("refused: {refusal}\n"), String::new()),
        Ok(plan) => {
            let mut steps: Vec<String> = plan
                .steps
                .iter()
                .enumerate()
                .map(|(n, s)| format!("{:>2} {:<24} {}\n", n + 1, s.name(), s.title()))
                .collect();
            steps.extend(plan.notes.iter().map(|n| format!("note: {n}\n")));
            let undo = plan.steps.iter().enumerate().rev();
            let undo = undo.filter_map(|(n, s)| Some(format!("{:>2} {:<24} {}\n", n + 1, s.name(), s.undo_title()?)));
            (steps.concat(), undo.collect())
        }
    }
}

fn findings(facts: &Facts, request: &Request) -> String {
    let checks = preflight::checks(facts, request);
    // `--ignore` must know each of them.
    checks.iter().for_each(|c| assert!(preflight::is_check(&c.name), "{} is in no list", c.name));
    let line = |c: &preflight::Check| {
        let fix = if c.fix.is_empty() || c.verdict == Verdict::Pass {
            String::new()
        } else {
            format!("\n  To fix it: {}", c.fix)
        };
        format!("{:?} {}: {}{fix}\n", c.verdict, c.name, c.found)
    };
    checks.iter().map(line).collect()
}

#[test]
fn every_golden_folder_gives_what_it_says() {
    let mut cases: Vec<PathBuf> = std::fs::read_dir(folder()).unwrap().map(|e| e.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 5, "there are golden folders");
    for case in cases.iter().filter(|c| c.is_dir()) {
        let request: Request = read(&case.join("request.json"));
        let facts = facts_of(case);
        let (plan, undo) = plan_and_undo(&facts, &request);
        golden(&case.join("plan.txt"), &plan);
        golden(&case.join("undo.txt"), &undo);
        golden(&case.join("findings.txt"), &findings(&facts, &request));
        let again = plan_and_undo(&facts, &request);
        assert_eq!((plan, undo), again, "{}: the same facts give the same plan", case.display());
    }
}

/// A case is a whole node's facts, or another case's with some of them changed (a JSON merge patch).
fn facts_of(case: &Path) -> Facts {
    let own = case.join("facts.json");
    if own.exists() {
        return read(&own);
    }
    let patch: serde_json::Value = read(&case.join("facts.patch.json"));
    let base = patch["base"].as_str().expect("a patch names its base");
    let mut facts: serde_json::Value = read(&folder().join(base).join("facts.json"));
    merge(&mut facts, &patch["patch"]);
    serde_json::from_value(facts).unwrap_or_else(|e| panic!("{}: {e}", case.display()))
}

/// RFC 7386.
fn merge(target: &mut serde_json::Value, patch: &serde_json::Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = serde_json::json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            target.as_object_mut().map(|t| t.shift_remove(key));
        } else {
            merge(&mut target[key], value);
        }
    }
}

/// The journal of a run of a golden plan, record by record.
#[test]
fn an_open_run_says_where_it_stands() {
    let case = folder().join("to-calico");
    let request: Request = read(&case.join("request.json"));
    let plan = Box::new(plan::plan(&facts_of(&case), &request).unwrap());
    let cordon = plan.steps.iter().position(|s| matches!(s, Step::Cordon)).unwrap();
    let units = plan.steps.iter().position(|s| s.undo_due() == UndoDue::Verified).unwrap();
    let (tool, run, boot_id) = ("t".to_owned(), "r".to_owned(), "b".to_owned());
    let open =
        Record::Open { format: 1, tool, run, boot_id, at: "1".into(), reason: None, by: None, takes_back: None, plan };
    let mut log = Log { records: vec![open] };
    let mut then = |record: Option<Record>| {
        log.records.extend(record);
        log.position().map(|p| (p.course, p.step, p.done, p.title, p.since, p.owed.len()))
    };
    let at = |course, step, done, title: &str, since: &str, owed| {
        Some((course, step, done, title.to_owned(), since.to_owned(), owed))
    };
    let here = Some(cordon + 1);
    assert_eq!(then(None), at(Course::Forward, None, false, "", "1", 0));
    // What looks after debts across a reboot stands until they are paid; it is no step of the way back before that.
    drop(then(Some(Record::Begin { n: units, before: Before::Units { enabled: Vec::new() }, at: "1".into() })));
    drop(then(Some(Record::Done { n: units, ms: 1, at: None, result: serde_json::Value::Null })));
    let begin = Record::Begin { n: cordon, before: Before::Unschedulable { value: false }, at: "2".into() };
    assert_eq!(then(Some(begin)), at(Course::Forward, here, false, "cordon the node", "2", 0));
    let done = Record::Done { n: cordon, ms: 1, at: None, result: serde_json::Value::Null };
    assert_eq!(then(Some(done)), at(Course::Forward, here, true, "cordon the node", "2", 0));
    let back = Record::Reverting { why: "asked".into(), at: "3".into() };
    let title = "make the node schedulable or not, as it was";
    assert_eq!(then(Some(back)), at(Course::Back, here, false, title, "3", 0));
    let owed = Record::Owed { debt: Debt::Unschedulable { value: false } };
    assert_eq!(then(Some(owed)), at(Course::Back, here, false, title, "3", 1));
    assert_eq!(
        then(Some(Record::Undone { n: cordon, ms: 1, at: None, result: serde_json::Value::Null })),
        at(Course::Owing, None, false, "", "3", 1)
    );
    assert_eq!(then(Some(Record::Close { outcome: Outcome::PutBack, at: "4".into() })), None);
}

/// What a switch needs at the least is told by those that have succeeded.
#[test]
fn the_shortest_switch_is_one_that_was_finished() {
    let case = folder().join("to-calico");
    let request: Request = read(&case.join("request.json"));
    let whole = request.clone();
    let run = |request: &Request, ms: u64, outcome: Option<Outcome>| {
        let plan = Box::new(plan::Plan { request: request.clone(), ..plan::plan(&facts_of(&case), &whole).unwrap() });
        let (tool, run, boot_id) = ("t".to_owned(), "r".to_owned(), "b".to_owned());
        let open = Record::Open {
            format: 1,
            tool,
            run,
            boot_id,
            at: "1".into(),
            reason: None,
            by: None,
            takes_back: None,
            plan,
        };
        let done = |n| Record::Done { n, ms: ms / 2, at: None, result: serde_json::Value::Null };
        let close = outcome.map(|outcome| Record::Close { outcome, at: "2".into() });
        ("r".to_owned(), Ok(Log { records: [open, done(0), done(1)].into_iter().chain(close).collect() }))
    };
    let seconds = |runs: &[(String, anyhow::Result<Log>)]| nodectl::run::shortest(runs, &request).as_secs();
    let in_place = Request { strategy: Strategy::InPlace, ..request.clone() };
    assert_eq!(seconds(&[]), 5);
    let others = [
        run(&request, 6000, Some(Outcome::PutBack)),
        run(&request, 7000, None),
        run(&in_place, 8000, Some(Outcome::Switched)),
        ("torn".to_owned(), Err(anyhow::anyhow!("torn"))),
    ];
    assert_eq!(seconds(&others), 5);
    assert_eq!(
        seconds(&[run(&request, 40_000, Some(Outcome::Switched)), run(&request, 20_000, Some(Outcome::Switched))]),
        20
    );
}
