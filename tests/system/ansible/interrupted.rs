//! Playbooks whose nodes go down, whose units are killed, and that meet what somebody else has begun: what they say is what is, and no
//! further node begins after one that is not where it was to be.

use std::path::Path;

use nodectl::step::Step;
use nodectl_lab::cluster::until;
use nodectl_lab::node::{Kind, Node};
use nodectl_lab::package;
use nodectl_lab::scenario::{Cni, Scenario};
use nodectl_lab::wait::{PATIENCE, eventually};
use serde_json::Value;

use super::controller::{Controller, Played, has, in_mid_run};

const OPEN: &str = "/var/lib/nodectl/open";
/// The steps of one batch alone, as a node meets them that nobody has asked before.
const SWITCH: &str = "- hosts: node2\n  gather_facts: false\n  any_errors_fatal: true\n  tasks:\n    - ansible.builtin.include_tasks: \
                      .ansible/collections/ansible_collections/nodectl/cni/playbooks/tasks/switch.yml\n";

/// As soon as the device has this name, while the playbook runs, the node's power is cut; it comes back.
fn cut_at(controller: &Controller, playbook: &str, node: &dyn Node, device: &str) -> Played {
    in_mid_run(controller, playbook, node, &[], || {
        let is_there = || node.exec(&["ip", "link", "show", device]).is_ok_and(|link| link.ok());
        eventually("the device is renamed", is_there);
        controller.power_cycle(node);
    })
}

/// The node's run has let pods go on: it is finished, and not taken back. Little is left to do then; it may have ended already.
fn is_released(node: &dyn Node) -> bool {
    let Ok(run) = std::fs::read_to_string(node.path(OPEN).unwrap()) else { return true };
    let journal = node.path(&format!("/var/lib/nodectl/journal/{}.jsonl", run.trim())).unwrap();
    let Ok(log) = nodectl::journal::read(Path::new(&journal)) else { return false };
    let release = |plan: &nodectl::plan::Plan| plan.steps.iter().position(|step| matches!(step, Step::Release { .. }));
    log.plan().and_then(release).is_some_and(|n| log.is_done(n))
}

/// Runs on the node, oldest first.
fn runs(scenario: &Scenario, index: usize) -> Vec<Value> {
    let history = scenario.nodectl(index, &["history", "--output", "json"]).unwrap().json().unwrap();
    history["runs"].as_array().unwrap().clone()
}

/// The node comes up on this CNI with nothing open, and its pods with it.
fn comes_up(scenario: &Scenario, index: usize, cni: Cni) {
    assert!(!has(scenario.node(index).unwrap(), OPEN));
    until(PATIENCE, || Ok(scenario.must_be_on(index, cni).err().map(|error| format!("{error:#}")))).unwrap();
    scenario.complete().unwrap();
}

/// It failed, and said that the node went down and was put back.
fn must_have_been_put_back(played: Played) {
    assert_ne!(played.code, 0, "{}", played.text);
    played.says("was cut short by a reboot, and run").says("was put back on node");
}

/// A playbook whose unit is killed fails, and the run does not stay open.
fn a_killed_unit_is_settled(scenario: &Scenario, controller: &Controller) {
    let node = scenario.node(2).unwrap();
    let killed = in_mid_run(controller, "revert", node, &[], || {
        let unit = "nodectl-ansible-revert.service";
        node.must(&["systemctl", "kill", "--signal=KILL", "--kill-who=main", unit]).unwrap();
    });
    assert_ne!(killed.code, 0, "{}", killed.text);
    killed.says("failed (signal)");
    eventually("the run is closed", || !has(node, OPEN));
    comes_up(scenario, 2, Cni::Calico);
}

/// A switch that is refused, since somebody's run is open on the node, leaves that run alone.
fn a_run_of_somebody_else_stays(scenario: &Scenario, controller: &Controller) {
    let switch = ["migrate", "--to", "flannel", "--confirm-timeout", "30m", "--yes"];
    scenario.nodectl(2, &switch).unwrap().expect(0).unwrap();
    let before = runs(scenario, 2);
    controller.write("switch.yml", SWITCH);
    let refused = controller.run(&["ansible-playbook", "-i", "hosts", "switch.yml"]);
    assert_ne!(refused.code, 0, "{}", refused.text);
    let refused = refused.says("nodectl refuses (exit 3)");
    assert_eq!(runs(scenario, 2), before, "{}", refused.text);
    scenario.nodectl(2, &["confirm"]).unwrap().expect(0).unwrap();
    scenario.must_be_on(2, Cni::Flannel).unwrap();
}

#[test]
fn what_is_interrupted_is_told_as_it_is() {
    let scenario = Scenario::start(2, &Scenario::workloads(2), |options| options.kinds = vec![Kind::Full; 2]).unwrap();
    scenario.cluster.nodes().for_each(|node| package::bare(node).unwrap());
    scenario.prepare().unwrap();
    let (node1, node2) = (scenario.node(1).unwrap(), scenario.node(2).unwrap());
    let controller = Controller::new(&scenario, 1, "");
    controller.play("install", &[]).changed([6; 2]);

    // Before its pods have changed sides, it goes back; and nobody else begins.
    must_have_been_put_back(cut_at(&controller, "migrate", node1, "vxlan.calico"));
    comes_up(&scenario, 1, Cni::Flannel);
    assert!(!has(node2, "/var/lib/nodectl/journal"));
    // Later, the switch is finished, and the roll-out goes on.
    let played = in_mid_run(&controller, "migrate", node1, &[], || {
        eventually("pods go on", || is_released(node1));
        controller.power_cycle(node1);
    });
    played.changed([1; 2]);
    (1..=2).for_each(|index| comes_up(&scenario, index, Cni::Calico));

    let before = runs(&scenario, 1);
    must_have_been_put_back(cut_at(&controller, "revert", node2, "flannel.1"));
    comes_up(&scenario, 2, Cni::Calico);
    a_killed_unit_is_settled(&scenario, &controller);
    assert_eq!(runs(&scenario, 1), before);
    a_run_of_somebody_else_stays(&scenario, &controller);
}
