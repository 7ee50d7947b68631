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
    // Slowed down, the pods have lost their place by then, and not found another.
    scenario.cluster.api().unwrap().control("slow 700 agent=nodectl/").unwrap();
    let put_back = ask(&["migrate", "--yes", "--deadline", "6s"], 4, true);
    scenario.cluster.api().unwrap().control("ok").unwrap();
    assert!(put_back["error"].as_str().is_some_and(|e| e.contains("deadline")), "{put_back}");
    scenario.must_be_settled(1, Cni::Flannel).unwrap();
    assert_eq!(scenario.run_note(1).unwrap()["state"], "put-back");
    // An Event that is lost is no server that is gone.
    scenario.cluster.api().unwrap().control("reset /api/v1/namespaces/default/events times=1").unwrap();
    let switched = ask(&["migrate", "--yes", "--reason", "a ticket"], 0, true);
    assert_eq!((&switched["outcome"], &switched["reason"]), (&"switched".into(), &"a ticket".into()));
    let note = scenario.run_note(1).unwrap();
    assert_eq!((&note["run"], &note["state"], &note["to"]), (&switched["run"], &"switched".into(), &"calico".into()));
    assert!(switched["steps"].as_array().is_some_and(|steps| steps.len() > 10));
    // A second one changes nothing: no run, no journal, the same network.
    let node = scenario.node(1).unwrap();
    let before = nodectl_lab::snapshot::Snapshot::take(node).unwrap();
    assert_eq!(ask(&["migrate", "--yes"], 0, false)["outcome"], "nothing-to-do");
    assert_eq!(before.diff(&nodectl_lab::snapshot::Snapshot::take(node).unwrap()), Vec::<String>::new());
    scenario.must_be_settled(1, Cni::Calico).unwrap();
    // A way back that is only shown is the plan of a switch, and changes as little.
    let shown = ask(&["revert", "--dry-run"], 0, false);
    let plan = &shown["plan"];
    assert_eq!((&plan["from"], &plan["request"]["to"]), (&"calico".into(), &"flannel".into()), "{shown:#}");
    let text = scenario.nodectl(1, &["revert", "--dry-run"]).unwrap().expect(0).unwrap();
    assert!(text.stdout.contains("flannel"), "{}", text.stdout);
    assert_eq!(before.diff(&nodectl_lab::snapshot::Snapshot::take(node).unwrap()), Vec::<String>::new());
    // After preflight's three questions the first write to the Node is the word about the run; a server that refuses it,
    // repetitions included, stops nothing.
    let refusal = "500 /api/v1/nodes/node1 method=PATCH agent=nodectl/ skip=3 times=3";
    scenario.cluster.api().unwrap().control(refusal).unwrap();
    let back = scenario.nodectl(1, &["revert", "--yes", "--output", "json"]).unwrap().expect(0).unwrap();
    assert!(back.stderr.contains("the Node does not say where the run stands"), "{}", back.all());
    assert_eq!(document(&back, true).unwrap()["outcome"], "switched");
    assert_eq!(scenario.run_note(1).unwrap()["to"], "flannel");
    // Asked again, the way back does not become the way there.
    assert_eq!(ask(&["revert", "--yes"], 0, false)["outcome"], "nothing-to-do");
    let again = scenario.nodectl(1, &["revert", "--yes"]).unwrap().expect(0).unwrap();
    assert!(again.stdout.contains("taken back already. To switch again: nodectl migrate\n"), "{}", again.all());
    scenario.must_be_settled(1, Cni::Flannel).unwrap();
    history(&scenario).unwrap();
    unreadable_journals(&scenario).unwrap();
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

/// The journal of the last run, and then of an open one, is damaged.
fn unreadable_journals(scenario: &Scenario) -> Result<()> {
    let node = scenario.node(1)?;
    let last = node.sh("ls /var/lib/nodectl/journal/*.jsonl | tail -n 1")?.trim().to_owned();
    let run = last.rsplit('/').next().and_then(|name| name.strip_suffix(".jsonl")).unwrap_or_default();
    node.sh(&format!("cp -p {last} /run/kept; sed -i 1s/./x/ {last}"))?;
    let reverted = scenario.nodectl(1, &["revert", "--yes"])?.expect(3)?;
    ensure!(reverted.stderr.contains("may be the last one") && reverted.stderr.contains(run), "{}", reverted.all());
    let history = scenario.nodectl(1, &["history"])?.expect(0)?;
    ensure!(history.stdout.contains("cannot be read") && history.stdout.contains("To fix it:"), "{}", history.all());
    node.sh(&format!("echo {run} > /var/lib/nodectl/open"))?;
    for damage in ["sed -i 1s/./x/", "truncate -s 0"] {
        node.sh(&format!("{damage} {last}"))?;
        for command in ["resume", "revert"] {
            let done = scenario.nodectl(1, &[command, "--yes"])?.expect(5)?;
            let told = done.stderr.contains("/var/lib/nodectl/open") && done.stderr.matches("To fix it:").count() == 1;
            ensure!(told, "{}", done.all());
        }
    }
    node.sh(&format!("rm /var/lib/nodectl/open; cp -p /run/kept {last}")).map(drop)
}

#[test]
fn wrong_use_is_exit_64_and_names_what_there_is() {
    let scenario = start().unwrap();
    for args in [
        &["migrate", "--yes", "--plan", "x", "--drain-timeout", "10"][..],
        &["migrate", "--yes", "--plan", "x", "--ignore", "mtu"],
        &["migrate", "--dry-run", "--ignore", "nonsense"],
        &[],
        &["frobnicate"],
        &["migrate", "--to", "cilium", "--yes"],
        &["migrate", "--yes", "--drain-timeout", "soon"],
        &["migrate", "--yes", "--drain-timeout", "18446744073709551615"],
        &["migrate", "--yes", "--plan", "x", "--to", "calico"],
        // Nobody would keep that limit.
        &["migrate", "--yes", "--max-outage", "1000"],
        &["plan", "--strategy", "in-place", "--probe-to", "udp:10.1.0.2"],
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
    let dry = scenario.nodectl(1, &["migrate", "--dry-run", "--output", "json"]).unwrap().expect(3).unwrap();
    assert_eq!(dry.json().unwrap()["outcome"], "refused", "as without --dry-run");
    let done =
        scenario.nodectl(1, &["preflight", "--ignore", "leftovers", "--output", "json"]).unwrap().expect(0).unwrap();
    let checks = done.json().unwrap();
    let ignored = checks["checks"].as_array().into_iter().flatten().find(|c| c["name"] == "leftovers").cloned();
    assert_eq!(ignored.unwrap()["verdict"], "ignored");
    // A name may stand in a configuration file: that its check cannot be made now is no typing error.
    scenario.cluster.api().unwrap().control("refuse").unwrap();
    let done = scenario.nodectl(1, &["preflight", "--ignore", "mtu"]).unwrap().expect(3).unwrap();
    assert!(done.stdout.contains("the API server could not be asked"), "{}", done.all());
}
