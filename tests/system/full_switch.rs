use nodectl_lab::scenario::{Cni, Scenario};
use nodectl_lab::node::Kind;
#[test]
fn full() {
    let scenario = Scenario::start(2, &Scenario::workloads(3), |o| o.kinds = vec![Kind::Full]).unwrap();
    scenario.settled().unwrap();
    println!("{}", scenario.prepare().unwrap().all());
    println!("{}", scenario.nodectl(1, &["preflight"]).unwrap().all());
    println!("{}", scenario.nodectl(1, &["plan"]).unwrap().all());
    std::thread::scope(|s| { s.spawn(|| { std::thread::sleep(std::time::Duration::from_secs(25)); println!("DEBUG {}", scenario.node(1).unwrap().sh("journalctl -b -n 40 --no-pager -u kubelet; tail -vn 20 /var/log/pods/*/*/*").unwrap()); });
    println!("{}", scenario.migrate(1, Cni::Calico).unwrap().all());
    });
    if std::env::var("STAY").is_ok() { println!("STAY {}", scenario.node(1).unwrap().pid().unwrap()); std::thread::sleep(std::time::Duration::from_secs(200)); }
    scenario.must_be_on(1, Cni::Calico).unwrap();
    println!("{}", scenario.nodectl(1, &["revert", "--yes"]).unwrap().expect(0).unwrap().all());
    scenario.must_be_on(1, Cni::Flannel).unwrap();
}
