//! JSON documents, exit codes, and what a second switch does.

use anyhow::{Result, ensure};
use nodectl_lab::scenario::{Cni, Done, Scenario};
use serde_json::Value;

use super::provoke::start;

/// The one document on stdout, with what every document has.
fn document(done: &Done, changed: bool) -> Result<Value> {
    let document = done.json()?;
    ensure!(document["schema_version"] == 1, "no schema_version: {}", done.all());
    ensure!(document["changed"] == changed, "changed is {}: {}", document["changed"], done.all());
    Ok(document)
}

fn json(scenario: &Scenario, args: &[&str], code: i32, changed: bool) -> Result<Value> {
    let mut args = args.to_vec();
    args.extend(["--output", "json"]);
    document(&scenario.nodectl(1, &args)?.expect(code)?, changed)
}

#[test]
fn every_command_answers_with_one_document() {
    let scenario = start().unwrap();
    let ask = |args: &[&str], code, changed| json(&scenario, args, code, changed).unwrap();
    assert_eq!(ask(&["history"], 0, false)["runs"], serde_json::json!([]));
    assert_eq!(ask(&["resume", "--yes"], 0, false)["outcome"], "nothing-to-do");
    assert_eq!(ask(&["revert", "--yes"], 0, false)["outcome"], "nothing-to-do");
    assert_eq!(ask(&["preflight"], 0, false)["ready"], true);
    assert!(ask(&["plan"], 0, false)["plan"]["steps"].as_array().is_some_and(|steps| steps.len() > 10));
    ask(&["plan", "--detailed-exitcode"], 2, false);
    ask(&["migrate", "--dry-run"], 0, false);
    assert_eq!(ask(&["migrate"], 64, false)["outcome"], "usage");
    ask(&["status"], 0, false);
    // Already there: nothing changes.
    assert_eq!(ask(&["migrate", "--to", "flannel", "--yes"], 0, false)["outcome"], "nothing-to-do");
    ask(&["plan", "--to", "flannel", "--detailed-exitcode"], 0, false);
    let put_back = ask(&["migrate", "--yes", "--deadline", "1s"], 4, false);
    assert!(put_back["error"].as_str().is_some_and(|e| e.contains("deadline")), "{put_back}");
    scenario.must_be_settled(1, Cni::Flannel).unwrap();
    // An Event that is lost is no server that is gone.
    scenario.cluster.api().unwrap().control("reset /api/v1/namespaces/default/events times=1").unwrap();
    let switched = ask(&["migrate", "--yes", "--reason", "a ticket"], 0, true);
    assert_eq!((&switched["outcome"], &switched["reason"]), (&"switched".into(), &"a ticket".into()));
    assert!(switched["steps"].as_array().is_some_and(|steps| steps.len() > 10));
    // A second one changes nothing: no run, no journal, the same network.
    let node = scenario.node(1).unwrap();
    let before = nodectl_lab::snapshot::Snapshot::take(node).unwrap();
    assert_eq!(ask(&["migrate", "--yes"], 0, false)["outcome"], "nothing-to-do");
    assert_eq!(before.diff(&nodectl_lab::snapshot::Snapshot::take(node).unwrap()), Vec::<String>::new());
    scenario.must_be_settled(1, Cni::Calico).unwrap();
    assert_eq!(ask(&["revert", "--yes"], 0, true)["outcome"], "switched");
    history(&scenario).unwrap();
}

fn history(scenario: &Scenario) -> Result<()> {
    let runs = json(scenario, &["history"], 0, false)?["runs"].as_array().cloned().unwrap_or_default();
    let outcomes: Vec<&str> = runs.iter().filter_map(|run| run["outcome"].as_str()).collect();
    ensure!(outcomes == ["put-back", "switched", "switched"], "{runs:?}");
    let text = scenario.nodectl(1, &["history"])?.expect(0)?;
    ensure!(text.stdout.contains("flannel -> Calico") && text.stdout.contains("put back"), "{}", text.all());
    let status = scenario.nodectl(1, &["status"])?.expect(0)?;
    for words in ["CNI:", "flannel", "flanneld", "3 closed, none open", "nodectl.io/cni=flannel"] {
        ensure!(status.stdout.contains(words), "no {words:?}: {}", status.all());
    }
    Ok(())
}

#[test]
fn wrong_use_is_exit_64_and_names_what_there_is() {
    let scenario = start().unwrap();
    for args in [
        &[][..],
        &["frobnicate"],
        &["migrate", "--to", "cilium", "--yes"],
        &["migrate", "--yes", "--drain-timeout", "soon"],
        &["migrate", "--yes", "--drain-timeout", "18446744073709551615"],
        &["migrate", "--yes", "--plan", "x", "--to", "calico"],
    ] {
        scenario.nodectl(1, args).unwrap().expect(64).unwrap();
    }
    scenario.nodectl(1, &["--version"]).unwrap().expect(0).unwrap();
    scenario.nodectl(1, &["migrate", "--help"]).unwrap().expect(0).unwrap();
    // A typing error must not pass for an accepted check; nor can what nothing works without be waived.
    for name in ["rp_filter", "prepared", "open-run"] {
        for command in ["preflight", "plan", "migrate"] {
            let done = scenario.nodectl(1, &[command, "--ignore", name]).unwrap().expect(64).unwrap();
            assert!(done.stderr.contains(name) && done.stderr.contains("rp-filter"), "{}", done.all());
        }
    }
    let node = scenario.node(1).unwrap();
    node.sh("iptables-nft -N cali-x").unwrap();
    scenario.nodectl(1, &["preflight"]).unwrap().expect(3).unwrap();
    let done =
        scenario.nodectl(1, &["preflight", "--ignore", "leftovers", "--output", "json"]).unwrap().expect(0).unwrap();
    let checks = done.json().unwrap();
    let ignored = checks["checks"].as_array().into_iter().flatten().find(|c| c["name"] == "leftovers").cloned();
    assert_eq!(ignored.unwrap()["verdict"], "ignored");
}
