//! Saved plans: applied exactly, or refused with the drift named; and consent.

use anyhow::{Context, Result, ensure};
use nodectl_lab::client::Patch;
use nodectl_lab::objects::{self, workloads};
use nodectl_lab::scenario::{Cni, PATIENCE, Scenario};
use nodectl_lab::terminal::on_terminal;
use serde_json::{Value, json};

use super::provoke::{patch_node, start};

const PLAN: &str = "/run/plan.json";
const APPLY: [&str; 4] = ["migrate", "--plan", PLAN, "--yes"];

#[test]
fn a_saved_plan_is_applied_exactly_or_refused() {
    let scenario = start().unwrap();
    drifts(&scenario).unwrap();
    // As it was saved, to the byte: the journal holds the very plan.
    save(&scenario).unwrap();
    let saved: Value = read(&scenario, PLAN).unwrap();
    scenario.nodectl(1, &APPLY).unwrap().expect(0).unwrap();
    scenario.must_be_settled(1, Cni::Calico).unwrap();
    let journal =
        scenario.node(1).unwrap().sh("head -n 1 $(ls -t /var/lib/nodectl/journal/*.jsonl | head -n 1)").unwrap();
    let open: Value = serde_json::from_str(&journal).unwrap();
    assert_eq!(open["plan"], saved);
    // Applied once more: the node is there already.
    let again =
        scenario.nodectl(1, &["migrate", "--plan", PLAN, "--yes", "--output", "json"]).unwrap().expect(0).unwrap();
    assert_eq!(again.json().unwrap()["changed"], false);
    // Plans of another format, and what is no plan.
    let node = scenario.node(1).unwrap();
    node.sh("jq '.format=99' /run/plan.json > /run/other.json; echo nonsense > /run/no.json").unwrap();
    for (file, word) in
        [("/run/other.json", "format 99"), ("/run/no.json", "not JSON"), ("/run/none.json", "could not read")]
    {
        let done = scenario.nodectl(1, &["migrate", "--plan", file, "--yes"]).unwrap().expect(1).unwrap();
        assert!(done.stderr.contains(word), "{}", done.all());
    }
}

fn drifts(scenario: &Scenario) -> Result<()> {
    // A pod came.
    save(scenario)?;
    scale(scenario, 6)?;
    refused(scenario, "pods: + default/web-")?;
    scale(scenario, 3)?;
    // The label changed.
    save(scenario)?;
    let label = |value: &str| json!({"metadata": {"labels": {"nodectl.io/cni": value}}});
    patch_node(scenario, &label("none"))?;
    refused(scenario, "label nodectl.io/cni: was flannel, is none")?;
    patch_node(scenario, &label("flannel"))?;
    scenario.must_be_on(1, Cni::Flannel)?;
    scenario.settled()?;
    // A conflist appeared.
    save(scenario)?;
    let node = scenario.node(1)?;
    node.sh(
        r#"echo '{"cniVersion":"0.3.1","name":"x","plugins":[{"type":"bridge"}]}' > /etc/cni/net.d/20-extra.conflist"#,
    )?;
    refused(scenario, "conflists: + 20-extra.conflist")?;
    node.sh("rm /etc/cni/net.d/20-extra.conflist")?;
    // Somebody cordoned the node.
    save(scenario)?;
    patch_node(scenario, &json!({"spec": {"unschedulable": true}}))?;
    refused(scenario, "unschedulable: was false, is true")?;
    patch_node(scenario, &json!({"spec": {"unschedulable": null}}))?;
    // The node is as it was, the plan is not.
    save(scenario)?;
    node.sh(
        "jq 'del(.steps[] | select(.step == \"hold\"))' /run/plan.json > /run/edited && mv /run/edited /run/plan.json",
    )?;
    refused(scenario, "would be \"hold new attachments\"")?;
    save(scenario)?;
    node.sh("jq '(.steps[] | select(.step == \"evict\")).timeout_s += 1' /run/plan.json > /run/edited && mv /run/edited /run/plan.json")?;
    refused(scenario, "pods\": its details")
}

fn save(scenario: &Scenario) -> Result<()> {
    scenario.nodectl(1, &["plan", "--out", PLAN, "--agent-timeout", "60"])?.expect(0).map(drop)
}

fn read(scenario: &Scenario, path: &str) -> Result<Value> {
    serde_json::from_str(&scenario.node(1)?.sh(&format!("cat {path}"))?).context("the plan does not parse")
}

/// Refused, with the drift named, and nothing changed.
fn refused(scenario: &Scenario, drift: &str) -> Result<()> {
    let runs = "ls /var/lib/nodectl/journal 2>/dev/null | wc -l";
    let before = scenario.node(1)?.sh(runs)?;
    let done = scenario.nodectl(1, &APPLY)?.expect(3).with_context(|| drift.to_owned())?;
    ensure!(done.stderr.contains(drift) && done.stderr.contains("To fix it:"), "{drift}: {}", done.all());
    ensure!(scenario.node(1)?.sh(runs)? == before, "a run was begun");
    Ok(())
}

fn scale(scenario: &Scenario, replicas: u32) -> Result<()> {
    let path = "/apis/apps/v1/namespaces/default/deployments/web";
    scenario.client.patch(path, Patch::Merge, &json!({"spec": {"replicas": replicas}}))?;
    nodectl_lab::cluster::until(PATIENCE, || {
        let web = scenario.pods()?.iter().filter(|p| p["metadata"]["labels"]["app"] == "web").count();
        Ok((web != usize::try_from(replicas)?).then(|| format!("{web} pods of web")))
    })?;
    scenario.settled()
}

#[test]
fn a_switch_asks_on_a_terminal_and_needs_yes_without_one() {
    let scenario = start().unwrap();
    let done = scenario.nodectl(1, &["migrate"]).unwrap().expect(64).unwrap();
    assert!(done.stderr.contains("--yes") && done.stderr.contains("To fix it:"), "{}", done.all());
    const MIGRATE: &str = "nodectl migrate --agent-timeout 60";
    let node = scenario.node(1).unwrap();
    for (answer, code) in [("n\n", 3), ("\n", 3), ("maybe\n", 3)] {
        // With the log in a file, the question is on the terminal all the same.
        for command in [MIGRATE, &format!("{MIGRATE} 2>/run/log")] {
            let done = on_terminal(node, command, || Ok(()), answer).unwrap().expect(code).unwrap();
            let shown = done.stdout.contains("Switch this node? [y/N]") && done.stdout.contains("stop flannel");
            assert!(shown, "the plan is not shown: {}", done.all());
        }
    }
    changes_at_the_prompt(&scenario).unwrap();
    on_terminal(node, MIGRATE, || Ok(()), "y\n").unwrap().expect(0).unwrap();
    scenario.must_be_settled(1, Cni::Calico).unwrap();
    // Revert asks the same; an open run is named.
    scenario.nodectl(1, &["revert"]).unwrap().expect(64).unwrap();
    let mut run = scenario.drive(1, &Scenario::switch_args("flannel", &[])).unwrap();
    assert!(run.until("step", "hold").unwrap());
    run.kill().unwrap();
    let done = on_terminal(node, "nodectl revert", || Ok(()), "n\n").unwrap().expect(3).unwrap();
    assert!(done.stdout.contains("is open") && done.stdout.contains("Take it back? [y/N]"), "{}", done.all());
    on_terminal(node, "nodectl revert", || Ok(()), "yes\n").unwrap().expect(0).unwrap();
    scenario.must_be_settled(1, Cni::Calico).unwrap();
}

/// What was shown is what was agreed to: a pod that came and a cordon that was set meanwhile are refused, and stay.
fn changes_at_the_prompt(scenario: &Scenario) -> Result<()> {
    const MIGRATE: &str = "nodectl migrate --agent-timeout 60";
    let bare = workloads::bare("lonely", Some("node1"));
    let come = || Ok(objects::install(&scenario.client, std::slice::from_ref(&bare)).map(drop)?);
    let done = on_terminal(scenario.node(1)?, MIGRATE, come, "y\n")?.expect(3)?;
    ensure!(done.stdout.contains("default/lonely"), "{}", done.all());
    scenario.client.delete(&bare.path()).context("the bare pod is gone")?;
    nodectl_lab::cluster::until(PATIENCE, || {
        let left = scenario.pods()?.iter().any(|p| p["metadata"]["name"] == "lonely");
        Ok(left.then(|| "the bare pod is there".to_owned()))
    })?;
    let cordon = || patch_node(scenario, &json!({"spec": {"unschedulable": true}}));
    let done = on_terminal(scenario.node(1)?, MIGRATE, cordon, "y\n")?.expect(3)?;
    ensure!(done.stdout.contains("unschedulable: was false, is true"), "{}", done.all());
    let node = scenario.node_object(1)?;
    ensure!(node["spec"]["unschedulable"] == true, "the cordon was undone");
    patch_node(scenario, &json!({"spec": {"unschedulable": null}}))
}
