//! The main job: node by node from flannel to Calico, and back.

use nodectl_lab::objects::workloads;
use nodectl_lab::scenario::{Cni, Scenario};
use serde_json::json;

#[test]
fn one_node_goes_to_calico_and_back() {
    let scenario = Scenario::start(2, &Scenario::workloads(3), |_| {}).unwrap();
    scenario.prepare().unwrap();
    println!("{}", scenario.migrate(1, Cni::Calico).unwrap().all());
    scenario.must_be_on(1, Cni::Calico).unwrap();
    println!("{}", scenario.nodectl(1, &["revert", "--yes"]).unwrap().expect(0).unwrap().all());
    scenario.must_be_on(1, Cni::Flannel).unwrap();
}

#[test]
fn a_pod_that_stays_has_its_grace_before_its_sandbox_is_stopped() {
    let mut daemon = workloads::daemon("graceful");
    let spec = &mut daemon.object["spec"]["template"]["spec"];
    spec["terminationGracePeriodSeconds"] = json!(20);
    // Slower than any killing: who is killed writes nothing.
    let graceful = "trap 'sleep 1; echo ended >> /var/log/graceful; kill $!; exit' TERM; nodectl-lab pod & wait";
    spec["containers"][0]["command"] = json!(["sh", "-c", graceful]);
    let scenario = Scenario::start(1, &[daemon], |_| {}).unwrap();
    scenario.settled().unwrap();
    scenario.prepare().unwrap();
    let ended = || scenario.node(1).unwrap().sh("cat /var/log/graceful 2>/dev/null || true").unwrap().lines().count();
    scenario.migrate(1, Cni::Calico).unwrap();
    assert_eq!(ended(), 1);
    scenario.nodectl(1, &["revert", "--yes"]).unwrap().expect(0).unwrap();
    assert_eq!(ended(), 2);
}
