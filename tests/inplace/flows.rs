//! Flows that a switch in place is told to watch: what must pass, what must be refused, there and back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use nodectl_lab::scenario::in_place::{BACK, in_place};
use nodectl_lab::scenario::{Cni, Scenario};
use serde_json::Value;

/// Names and addresses of the pods on a node.
fn pods_on(scenario: &Scenario, node: &str) -> Vec<(String, String)> {
    let pods = scenario.pods().unwrap();
    let here = pods.iter().filter(|pod| pod["spec"]["nodeName"] == node && pod["status"]["podIP"].is_string());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let name = |pod: &Value| format!("{}/{}", text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
    here.map(|pod| (name(pod), text(&pod["status"]["podIP"]))).collect()
}

/// The pair of this report that has this name.
#[track_caller]
fn pair<'a>(report: &'a Value, from: &str, kind: &str, to: &str) -> &'a Value {
    let is_it = |pair: &&Value| {
        pair["from"] == from && pair["kind"] == kind && pair["to"].as_str().is_some_and(|text| text.starts_with(to))
    };
    let pairs = report["pairs"].as_array().unwrap();
    pairs.iter().find(is_it).unwrap_or_else(|| panic!("{from} -> {kind} {to}: {report}"))
}

#[test]
fn named_flows_are_watched_there_and_back() {
    let scenario = Scenario::start(2, &Scenario::workloads(3), |_| {}).unwrap();
    scenario.prepare().unwrap();
    let before = scenario.identities().unwrap();
    let (own, far) = (pods_on(&scenario, "node1"), pods_on(&scenario, "node2"));
    let ((a, a_ip), (b, _), (_, far)) = (&own[0], &own[1], &far[0]);
    let node = scenario.node(1).unwrap();

    // What does not pass before is no measure of a switch.
    let done =
        scenario.nodectl(1, &[in_place("calico"), vec!["--probe-to", "connect:192.168.77.2:9"]].concat()).unwrap();
    let done = done.expect(4).unwrap();
    assert!(done.stderr.contains("host -> connect 192.168.77.2:9 was never answered"), "{}", done.all());
    // And one that no pod of this node can begin is not begun.
    let nobody = [in_place("calico"), vec!["--probe-to", "default/nobody=gateway"]].concat();
    assert!(scenario.nodectl(1, &nobody).unwrap().expect(3).unwrap().all().contains("no pod default/nobody"));

    // A must-pass flow that is cut off takes the node back, and its step is named.
    let to_far = format!("{a}=udp:{far}:7777");
    let limited = [in_place("calico"), vec!["--max-outage", "1000", "--probe-to", &to_far]].concat();
    let mut run = scenario.drive(1, &limited).unwrap();
    assert!(run.until("step", "start-agent").unwrap());
    let drop_it = format!("PREROUTING -s {a_ip} -d {far} -p udp -j DROP");
    node.sh(&format!("iptables -w -t raw -I {drop_it}")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    node.sh(&format!("iptables -w -t raw -D {drop_it}")).unwrap();
    let done = run.finish().unwrap().expect(4).unwrap();
    let told = format!("{a} -> udp {far}:7777 was silent for ");
    assert!(done.stderr.contains(&told) && done.stderr.contains(" start-agent ("), "{}", done.all());
    // What the way back cost is told too: there it was answered all along.
    let place = done.stderr.rsplit_once("Report: ").unwrap().1.split(".json").next().unwrap().to_owned() + ".json";
    let kept: Value = serde_json::from_slice(&std::fs::read(node.path(&place).unwrap()).unwrap()).unwrap();
    let twice = kept["pairs"].as_array().unwrap().iter().filter(|pair| pair["from"] == **a && pair["kind"] == "udp");
    let ends: Vec<&Value> = twice.map(|pair| &pair["answers"]["last_step"]).collect();
    assert!(ends.len() == 2 && ends[1].as_str().is_some_and(|step| step.contains("(taken back: ")), "{ends:?}");
    scenario.must_be_on(1, Cni::Flannel).unwrap();

    // The same where a run that was killed is taken back by hand.
    let mut run = scenario.drive(1, &limited).unwrap();
    assert!(run.until("step", "detach-pod").unwrap());
    run.kill().unwrap();
    let back =
        scenario.nodectl(1, &["revert", "--yes", "--output", "json"]).unwrap().expect(0).unwrap().json().unwrap();
    assert!(pair(&back, a, "udp", far)["answered"].as_u64().unwrap() > 0, "{back}");
    scenario.must_be_on(1, Cni::Flannel).unwrap();

    // One flow is refused as it must be, another is not: that is named, and takes nothing back.
    node.sh(&format!("iptables -w -t raw -I {drop_it}")).unwrap();
    let (passes, open) = (format!("{a}=tcp:{b}"), format!("host=connect:{far}:7777"));
    let flows = ["--probe-to", &passes, "--probe-refuse", &to_far, "--probe-refuse", &open, "--output", "json"];
    for args in [in_place("calico"), BACK.to_vec()] {
        let report = scenario.nodectl(1, &[args, flows.to_vec()].concat()).unwrap().expect(0).unwrap().json().unwrap();
        let stream = pair(&report, a, "tcp", b);
        assert!(stream["answered"].as_u64().unwrap() > 5 && stream["breaks"] == 0, "{stream}");
        assert_eq!((&pair(&report, a, "udp", far)["answered"], &stream["lost"]), (&0.into(), &0.into()), "{report}");
        let surprises = report["surprises"].as_array().unwrap();
        let said = surprises[0].as_str().unwrap();
        assert!(said.starts_with(&format!("host -> connect {far}:7777 is to be refused and was answered ")), "{said}");
        assert!(said.contains(", from watch-pods (") && said.contains(") to "), "{said}");
        assert_eq!(surprises.len(), 1, "{surprises:?}");
    }
    scenario.must_be_on(1, Cni::Flannel).unwrap();
    assert_eq!(scenario.identities().unwrap(), before);
    node.sh(&format!("iptables -w -t raw -D {drop_it}")).unwrap();
    scenario.must_be_whole().unwrap();
}
