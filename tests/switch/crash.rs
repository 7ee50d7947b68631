//! SIGKILL and power cuts at every place of a switch: the node ends on one CNI, whole, and nothing of others' has changed.

use std::time::Instant;

use nodectl_lab::scenario::{Cni, Scenario};

#[test]
fn first_look() {
    let t = Instant::now();
    let s = Scenario::start(2, &Scenario::workloads(2), |_| {}).unwrap();
    s.prepare().unwrap();
    s.crowd(1).unwrap();
    s.settled().unwrap();
    println!("up {:?}", t.elapsed());
    let before = s.state(1).unwrap();
    let foreign = s.foreign(1).unwrap();
    println!("strays {:?}", s.strays(1).unwrap());
    let t = Instant::now();
    let points = s.fault_points(1, |env| s.migrate_with(1, Cni::Calico, env)).unwrap();
    println!("migrate {:?} {} points {points:?}", t.elapsed(), points.len());
    s.must_be_on(1, Cni::Calico).unwrap();
    s.settled().unwrap();
    println!("foreign {:#?}", foreign.diff(&s.foreign(1).unwrap()));
    println!("strays {:?}", s.strays(1).unwrap());
    let t = Instant::now();
    let points = s.fault_points(1, |env| s.nodectl_with(1, &["revert", "--yes"], env)).unwrap();
    println!("back {:?} {} points {points:?}", t.elapsed(), points.len());
    s.must_be_on(1, Cni::Flannel).unwrap();
    s.settled().unwrap();
    println!("strays {:?}", s.strays(1).unwrap());
    println!("foreign {:#?}", foreign.diff(&s.foreign(1).unwrap()));
    println!("state {:#?}", before.diff(&s.state(1).unwrap()));
    println!("{}", s.node(1).unwrap().sh("ls -laR /var/lib/nodectl /run/netns").unwrap());
}
