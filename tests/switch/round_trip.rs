//! The main job: node by node from flannel to Calico, and back.

use nodectl_lab::scenario::{Cni, Scenario};

#[test]
fn one_node_goes_to_calico_and_back() {
    let scenario = Scenario::start(2, &Scenario::workloads(3), |_| {}).unwrap();
    scenario.prepare().unwrap();
    println!("{}", scenario.migrate(1, Cni::Calico).unwrap().all());
    if std::env::var("STAY").is_ok() {
        println!("STAY {}", scenario.node(1).unwrap().pid().unwrap());
        std::thread::sleep(std::time::Duration::from_secs(200));
    }
    scenario.must_be_on(1, Cni::Calico).unwrap();
    println!("{}", scenario.nodectl(1, &["revert", "--yes"]).unwrap().expect(0).unwrap().all());
    scenario.must_be_on(1, Cni::Flannel).unwrap();
}
