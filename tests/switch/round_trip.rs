//! The main job: node by node from flannel to Calico, and back.

use nodectl_lab::scenario::{Cni, Scenario};

#[test]
fn one_node_goes_to_calico_and_back() {
    let scenario = Scenario::start(2, &Scenario::workloads(3), |_| {}).unwrap();
    println!("{}", scenario.prepare().unwrap().all());
    println!("{}", scenario.nodectl(1, &["preflight"]).unwrap().all());
    println!("{}", scenario.nodectl(1, &["plan"]).unwrap().all());
    println!("{}", scenario.migrate(1, Cni::Calico).unwrap().all());
    scenario.must_be_on(1, Cni::Calico).unwrap();
    println!("{}", scenario.nodectl(1, &["revert", "--yes"]).unwrap().all());
    scenario.must_be_on(1, Cni::Flannel).unwrap();
}
