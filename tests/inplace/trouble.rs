//! Trouble in the middle of a switch in place: pods that are silent for too long, an API server that dies, a reboot.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Read;
use std::time::Duration;

use nix::sys::signal::Signal;
use nodectl_lab::client::Patch;
use nodectl_lab::cluster::until;
use nodectl_lab::node::Running;
use nodectl_lab::objects::{self, Manifest, workloads};
use nodectl_lab::scenario::in_place::{BACK, BACK_AGAIN, in_place, nothing_lost};
use nodectl_lab::scenario::{Cni, Done, PATIENCE, Scenario, full};
use nodectl_lab::traffic::Traffic;
use serde_json::{Value, json};

fn lab(replicas: u32) -> Scenario {
    lab_with(&Scenario::workloads(replicas))
}

fn lab_with(workloads: &[Manifest]) -> Scenario {
    let scenario = Scenario::start(2, workloads, |_| {}).unwrap();
    scenario.prepare().unwrap();
    scenario
}

/// Switches in place, and cuts echo requests off for so long when a step begins.
fn cut_during(scenario: &Scenario, step: &str, cut: Duration, args: &[&str]) -> Done {
    let mut run = scenario.drive(1, args).unwrap();
    assert!(run.until("step", step).unwrap());
    let node = scenario.node(1).unwrap();
    node.sh("iptables -w -t raw -I PREROUTING -p icmp -j DROP").unwrap();
    std::thread::sleep(cut);
    node.sh("iptables -w -t raw -D PREROUTING -p icmp -j DROP").unwrap();
    run.finish().unwrap()
}

#[test]
fn a_silence_longer_than_max_outage_takes_the_node_back_and_names_the_step() {
    let scenario = lab(3);
    let before = scenario.identities().unwrap();
    let cut = Duration::from_millis(1500);
    let limited = |ms: &'static str| [in_place("calico"), vec!["--max-outage", ms]].concat();
    let done = cut_during(&scenario, "start-agent", cut, &limited("1000")).expect(4).unwrap();
    let place = done.stderr.rsplit_once("Report: ").unwrap().1.split(".json").next().unwrap().to_owned() + ".json";
    let kept = std::fs::read_to_string(scenario.node(1).unwrap().path(&place).unwrap()).unwrap();
    cut_in(&serde_json::from_str::<Value>(&kept).unwrap()["pairs"], "start-agent");
    // The first question that is lost may have been asked in the step before, and the last one in the step after.
    let told = done.stderr.split_once("more than the 1000 ms of --max-outage, ").map(|(_, told)| told);
    let steps = told.and_then(|told| told.split(['(', '.']).next());
    assert!(steps.is_some_and(|steps| steps.contains("start-agent")), "{}", done.all());
    scenario.must_be_on(1, Cni::Flannel).unwrap();
    assert_eq!(scenario.identities().unwrap(), before);
    // The same silence within the limit is told, and takes nothing back.
    let args = [limited("600000"), vec!["--output", "json"]].concat();
    let mut by_hand = probe_by_hand(&scenario);
    let report = cut_during(&scenario, "start-agent", cut, &args).expect(0).unwrap().json().unwrap();
    let steps = report["steps"].as_array().unwrap();
    let judged = &steps.iter().find(|step| step["step"] == "judge-outage").unwrap()["result"];
    assert!(judged["longest_gap_ms"].as_u64().unwrap() >= 1000, "{judged}");
    cut_in(&report["pairs"], "start-agent");
    // A probe by hand, begun before the run was opened, finds its steps in the journal.
    by_hand.signal(Signal::SIGINT);
    let mut text = String::new();
    by_hand.child().stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let seen: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(seen["runs"], json!([report["run"]]), "{seen}");
    cut_in(&seen["flows"], "start-agent");
    scenario.must_be_on(1, Cni::Calico).unwrap();
    assert_eq!(scenario.identities().unwrap(), before);
    scenario.must_be_whole().unwrap();
}

/// Some of these flows were cut off for a second during this step, and say so.
#[track_caller]
fn cut_in(flows: &Value, step: &str) {
    let gaps = flows.as_array().unwrap().iter().flat_map(|flow| flow["gaps"].as_array().unwrap());
    let is_it = |gap: &&Value| {
        let begins = |key: &str| gap[key].as_str().is_some_and(|name| name.starts_with(step));
        gap["us"].as_u64().unwrap() >= 1_000_000 && (begins("step") || begins("last_step"))
    };
    assert!(gaps.clone().any(|gap| is_it(&gap)), "{flows}");
}

/// Begins `nodectl probe` on node 1, from the host to one of its pods.
fn probe_by_hand(scenario: &Scenario) -> Running {
    let pods = scenario.pods().unwrap();
    let pod = pods.iter().find(|pod| pod["spec"]["nodeName"] == "node1" && pod["status"]["podIP"].is_string()).unwrap();
    let to = format!("icmp:{}", pod["status"]["podIP"].as_str().unwrap());
    let args = ["nodectl", "probe", "--to", &to, "--rate", "20", "--duration", "3600", "--output", "json"];
    scenario.node(1).unwrap().spawn(&args).unwrap()
}

/// The DaemonSet of Calico's agent.
const CALICO_NODE: &str = "/apis/apps/v1/namespaces/kube-system/daemonsets/calico-node";

/// What was lost before nodectl died is not forgotten by the one that goes on.
#[test]
fn a_silence_before_a_kill_counts_when_the_run_is_resumed() {
    let scenario = lab(2);
    let before = scenario.identities().unwrap();
    let args = [in_place("calico"), vec!["--max-outage", "1000"]].concat();
    let mut run = scenario.drive(1, &args).unwrap();
    assert!(run.until("step", "stop-agent").unwrap());
    // Calico's agent is late, so that the run is still there when the silence is over.
    let wanted = |value: Value| {
        let selector = json!({"spec": {"template": {"spec": {"nodeSelector": {"late": value}}}}});
        scenario.client.patch(CALICO_NODE, Patch::Merge, &selector).unwrap();
    };
    wanted(json!("yes"));
    assert!(run.until("step", "start-agent").unwrap());
    let node = scenario.node(1).unwrap();
    node.sh("iptables -w -t raw -I PREROUTING -p icmp -j DROP").unwrap();
    // A question is lost when it is not answered within two seconds.
    std::thread::sleep(Duration::from_millis(3500));
    node.sh("iptables -w -t raw -D PREROUTING -p icmp -j DROP").unwrap();
    std::thread::sleep(Duration::from_secs(1));
    run.kill().unwrap();
    wanted(Value::Null);
    let done = scenario.nodectl(1, &["resume", "--yes"]).unwrap().expect(4).unwrap();
    assert!(done.stderr.contains("more than 1000 ms"), "{}", done.all());
    scenario.must_be_settled(1, Cni::Flannel).unwrap();
    assert_eq!(scenario.identities().unwrap(), before);
}

/// Without a limit, too: a pod that is cut off when all is done was not switched.
#[test]
fn a_pod_that_answers_no_more_takes_the_node_back() {
    let scenario = lab(2);
    let before = scenario.identities().unwrap();
    let pods = scenario.pods().unwrap();
    let pod = pods.iter().find(|pod| pod["spec"]["nodeName"] == "node1").unwrap();
    let (name, ip) = (pod["metadata"]["name"].as_str().unwrap(), pod["status"]["podIP"].as_str().unwrap());
    let mut run = scenario.drive(1, &in_place("calico")).unwrap();
    assert!(run.until("step", "start-agent").unwrap());
    let cut = |verb: &str| {
        scenario
            .node(1)
            .unwrap()
            .sh(&format!("iptables -w -t raw -{verb} PREROUTING -p icmp -s {ip} -j DROP"))
            .unwrap();
    };
    cut("I");
    let done = run.finish().unwrap();
    cut("D");
    let told = format!("default/{name} has answered before and does not any more");
    assert!(done.stderr.contains(&told), "{}", done.all());
    done.expect(4).unwrap();
    scenario.must_be_settled(1, Cni::Flannel).unwrap();
    assert_eq!(scenario.identities().unwrap(), before);
}

/// Begins a switch in place and kills it when this step has been begun so often.
fn dies_in(scenario: &Scenario, args: &[&str], step: &str, times: usize) {
    let mut run = scenario.drive(1, args).unwrap();
    for _ in 0..times {
        assert!(run.until("step", step).unwrap(), "{step}");
    }
    run.kill().unwrap();
}

/// What Calico's plugin writes on a pod.
const ANNOTATION: &str = "cni.projectcalico.org/podIP";

/// Both sides know of each pod on node 1 what they should, and no pod has got another address or container.
fn must_be_as(scenario: &Scenario, cni: Cni, before: &std::collections::BTreeMap<String, [String; 3]>, what: &str) {
    scenario.must_be_settled(1, cni).unwrap();
    assert_eq!(&scenario.identities().unwrap(), before, "{what}");
    assert_eq!(scenario.strays(1).unwrap(), Vec::<String>::new(), "{what}");
    for pod in scenario.pods().unwrap().iter().filter(|pod| pod["spec"]["nodeName"] == "node1") {
        let written = pod["metadata"]["annotations"][ANNOTATION].is_string();
        assert_eq!(written, cni == Cni::Calico, "{what}: {}", pod["metadata"]);
    }
    scenario.must_be_whole().unwrap();
}

/// Killed in a step, taken back while there is no API server, settled when there is one again.
fn reverted_without_api(scenario: &mut Scenario, step: &str, args: &[&str], owed: Option<&str>) {
    dies_in(scenario, args, step, 2);
    scenario.cluster.api().unwrap().kill();
    let done = scenario.nodectl(1, &["revert", "--yes"]).unwrap();
    scenario.restart_api().unwrap();
    let done = done.expect(5).unwrap();
    assert!(owed.is_none_or(|owed| done.stderr.contains(owed)), "{step}: {}", done.all());
    scenario.nodectl(1, &["resume", "--yes"]).unwrap().expect(0).unwrap();
}

/// The run was killed, the API server dies, the run is taken back: pods stay as they are, and what Calico has in writing of them
/// is put right when the server answers again.
#[test]
fn taken_back_without_the_api_server_pods_stay_and_what_calico_has_in_writing_is_owed() {
    let mut scenario = lab(3);
    let before = scenario.identities().unwrap();
    let traffic = Traffic::start(&scenario.cluster, &scenario.pairs_in_place().unwrap(), 20).unwrap();
    let to_flannel: &[&str] =
        if full() { &["disclaim-pod", "lease-pod", "attach-pod", "unguide-pod"] } else { &["attach-pod"] };
    let to_calico: &[&str] = if full() { &["turn-pod", "detach-pod", "claim-pod", "clean"] } else { &["claim-pod"] };
    let there = in_place("calico");
    for step in to_calico {
        let owed = (*step == "claim-pod").then_some("out of Calico's address management");
        reverted_without_api(&mut scenario, step, &there, owed);
        must_be_as(&scenario, Cni::Flannel, &before, step);
    }
    scenario.nodectl(1, &there).unwrap().expect(0).unwrap();
    for step in to_flannel {
        let owed = Some("into Calico's address management again");
        reverted_without_api(&mut scenario, step, &BACK_AGAIN, owed);
        must_be_as(&scenario, Cni::Calico, &before, step);
    }
    nothing_lost(traffic).unwrap();
}

/// The server dies under a run that goes on: it is taken back, and owes. By default only what is harder is tried, above.
#[test]
fn an_api_server_that_dies_under_the_run_takes_the_node_back() {
    if !full() {
        return;
    }
    let mut scenario = lab(3);
    let before = scenario.identities().unwrap();
    let traffic = Traffic::start(&scenario.cluster, &scenario.pairs_in_place().unwrap(), 20).unwrap();
    let mut run = scenario.drive(1, &in_place("calico")).unwrap();
    assert!(run.until("step", "turn-pod").unwrap());
    scenario.cluster.api().unwrap().kill();
    let done = run.finish().unwrap();
    scenario.restart_api().unwrap();
    let done = done.expect(5).unwrap();
    scenario.nodectl(1, &["resume", "--yes"]).unwrap().expect(0).unwrap();
    nothing_lost(traffic).unwrap();
    must_be_as(&scenario, Cni::Flannel, &before, &done.all());
}

/// A reboot ends the pods; the node is on one CNI then, whole, with nothing of either side left of the pods of before.
#[test]
fn a_reboot_in_the_middle_ends_on_the_cni_that_is_asked_for() {
    let scenario = lab(3);
    let there = in_place("calico");
    let (target, start): (&[&str], &[&str]) = match full() {
        true => (&["guide-pod", "turn-pod", "start-agent", "claim-pod"], &["turn-pod", "detach-pod", "claim-pod"]),
        false => (&["detach-pod"], &["claim-pod"]),
    };
    let back: &[&str] =
        if full() { &["disclaim-pod", "lease-pod", "attach-pod", "unguide-pod"] } else { &["attach-pod"] };
    let round = |step: &str, args: &[&str], end: &str, cni: Cni| {
        dies_in(&scenario, args, step, 2);
        let node = scenario.node(1).unwrap();
        node.power_cut().unwrap();
        node.start().unwrap();
        until(PATIENCE, || Ok(node.cri()?.list_pod_sandbox().err().map(|error| error.to_string()))).unwrap();
        let done = scenario.nodectl(1, &[end, "--yes"]).unwrap().expect(0).unwrap();
        println!("rebooted in {step}, then {end}: {}", done.stdout.lines().next().unwrap_or_default());
        scenario.must_be_settled(1, cni).unwrap();
        scenario.must_leave_nothing().unwrap();
        scenario.must_be_whole().unwrap();
    };
    let whole = |args: &[&str]| drop(scenario.nodectl(1, args).unwrap().expect(0).unwrap());
    for step in start {
        round(step, &there, "revert", Cni::Flannel);
    }
    for step in target {
        round(step, &there, "resume", Cni::Calico);
        round("lease-pod", &BACK_AGAIN, "revert", Cni::Calico);
        for step in back {
            round(step, &BACK_AGAIN, "resume", Cni::Flannel);
            whole(&there);
        }
        whole(&BACK);
    }
}

/// Held while the plan has been made and new pods are not held yet, a pod comes.
#[test]
fn a_pod_that_comes_after_the_plan_is_re_plumbed_by_the_next_one() {
    let scenario = lab_with(&[workloads::web(2), vec![workloads::daemon_with_port("edge", 8081)]].concat());
    let comes = |name: &str, args: &[&str]| {
        let mut run = scenario.drive(1, args).unwrap();
        // The first one: a busy machine hears of a step when the next ones have begun.
        assert!(run.until("step", "enable-boot-units").unwrap());
        run.pause().unwrap();
        objects::install(&scenario.client, &[workloads::bare(name, Some("node1"))]).unwrap();
        scenario.settled().unwrap();
        run.go_on().unwrap();
        run.finish().unwrap()
    };
    let identity = |name: &str| scenario.identities().unwrap().into_values().find(|[own, ..]| own == name).unwrap();
    let plan = "/var/lib/plan.json";
    scenario.nodectl(1, &["plan", "--strategy", "in-place", "--out", plan]).unwrap().expect(0).unwrap();
    let told = comes("first", &["migrate", "--yes", "--plan", plan]).expect(4).unwrap();
    assert!(told.stderr.contains("default/first came after the plan was made"), "{}", told.all());
    scenario.must_be_on(1, Cni::Flannel).unwrap();
    let before = identity("first");
    // Without a saved plan a new one is made.
    let done = comes("second", &in_place("calico")).expect(0).unwrap();
    assert!(
        done.stderr.contains("default/second came after the plan was made") && done.stderr.contains("planned again")
    );
    scenario.must_be_settled(1, Cni::Calico).unwrap();
    assert_eq!(identity("first"), before, "its container and its address stay");
    // Of the others nothing is left under flannel's name, so that Calico's own list deletes them as well.
    let refused = scenario.nodectl(1, &["shim", "retire", "--yes"]).unwrap().expect(3).unwrap().all();
    assert!(refused.contains("default/edge-") && !refused.contains("default/web-"), "{refused}");
    scenario.client.delete("/apis/apps/v1/namespaces/default/daemonsets/edge").unwrap();
    until(PATIENCE, || {
        let pods = scenario.pods()?;
        let left =
            pods.iter().find(|pod| pod["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("edge")));
        Ok(left.map(ToString::to_string))
    })
    .unwrap();
    scenario.nodectl(1, &["shim", "retire", "--yes"]).unwrap().expect(0).unwrap();
    scenario.must_leave_nothing().unwrap();
    scenario.must_be_whole().unwrap();
}
