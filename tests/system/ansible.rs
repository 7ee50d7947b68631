//! The Ansible collection with Debian's Ansible, on three booted nodes: installed, checked, a roll-out that takes back a node that
//! hangs and goes no further, one that goes through although the connection is lost in the middle, and the way back. What is done
//! is not done twice. What is interrupted, in `interrupted`. And the other package, with Debian's dnf.

#[path = "ansible/controller.rs"]
mod controller;
#[path = "ansible/interrupted.rs"]
mod interrupted;

use nodectl_lab::cluster::{Cluster, Network, Options};
use nodectl_lab::node::{Kind, Node};
use nodectl_lab::package::{self, Packages};
use nodectl_lab::scenario::{Cni, Scenario};

use controller::{Controller, cut_off, has, in_mid_run};

/// Installing changes the node's files, once, and not in a check.
fn install(controller: &Controller, node: &dyn Node) {
    let checked = controller.play("install", &["--check", "--diff"]).says("+to = \"calico\"");
    assert!(checked.code == 0 && !checked.recap("node1").contains(" changed=0 "), "{}", checked.text);
    assert!(!has(node, "/var/cache/nodectl") && !has(node, "/etc/nodectl"), "{}", checked.text);
    let unasked = controller.play("preflight", &[]).says("nodectl is not on node1, and cannot be asked. To fix it: ");
    assert_ne!(unasked.code, 0, "{}", unasked.text);
    controller.play("install", &[]).changed([6; 3]);
    controller.play("preflight", &[]).changed([0; 3]).says("may be switched");
}

/// A switch that hangs on one of the first two nodes: it is taken back, the other one goes through, the third never begins.
fn stops_at_a_node_that_hangs(scenario: &Scenario, controller: &Controller) {
    let (node1, node3) = (scenario.node(1).unwrap(), scenario.node(3).unwrap());
    let failed = in_mid_run(controller, "migrate", node1, &["-e", "nodectl_serial=2"], || {
        node1.must(&["systemctl", "kill", "--kill-who=main", "--signal=STOP", "cni-migrate"]).unwrap();
    });
    assert_ne!(failed.code, 0, "{}", failed.text);
    let failed = failed.says("nodectl migrate --to calico still runs on node1");
    assert!(failed.recap("node1").contains(" rescued=1 "), "{}", failed.text);
    assert!(!has(node1, "/var/lib/nodectl/open"), "{}", failed.text);
    let history = scenario.nodectl(1, &["history", "--output", "json"]).unwrap().json().unwrap();
    assert_eq!(history["runs"][0]["outcome"], "put-back", "{history}");
    scenario.must_be_on(1, Cni::Flannel).unwrap();
    scenario.must_be_on(2, Cni::Calico).unwrap();
    assert!(!has(node3, "/var/lib/nodectl/journal"), "{}", failed.text);
    scenario.settled().unwrap();
}

/// The connection is lost while a node is switched, and comes back: the switch is confirmed, and the roll-out goes on.
fn goes_on_when_the_connection_is_back(scenario: &Scenario, controller: &Controller) {
    let node = scenario.node(1).unwrap();
    let more = ["-e", "nodectl_run_minutes=30", "-e", r#"{"nodectl_config": {"confirm_timeout": "30m"}}"#];
    let state = || node.must(&["systemctl", "show", "--value", "-p", "ActiveState", "cni-migrate"]).unwrap();
    let played = cut_off(controller, "migrate", node, &more, || {
        let has_ended = state().trim() != "activating";
        assert!(!has_ended || has(node, "/var/lib/nodectl/open"), "it is to be confirmed");
        has_ended
    });
    // The settings are others than before; the switch where it was not done yet.
    played.changed([2, 1, 2]);
    for index in 1..=3 {
        assert!(!has(scenario.node(index).unwrap(), "/var/lib/nodectl/open"));
        scenario.must_be_on(index, Cni::Calico).unwrap();
    }
    scenario.settled().unwrap();
}

/// With nodectl_confirm_canary the roll-out goes on after its first batch, and after no other, only where somebody says so.
fn asks_after_the_canary(controller: &Controller) {
    let more = ["-e", "nodectl_confirm_canary=true"];
    let question = "node1 switched. Enter goes on";
    let ended = controller.answered("migrate", &more, question, "\x03a").says("user requested abort");
    assert_ne!(ended.code, 0, "{}", ended.text);
    assert!(!ended.text.contains("Switch the control plane"), "{}", ended.text);
    let went_on = controller.answered("migrate", &more, question, "\r").says("Switch the control plane");
    assert_eq!((went_on.code, went_on.text.matches("Enter goes on").count()), (0, 1), "{}", went_on.text);
}

#[test]
fn a_roll_out_stops_goes_through_and_comes_back() {
    let scenario = Scenario::start(3, &Scenario::workloads(3), |options| options.kinds = vec![Kind::Full; 3]).unwrap();
    scenario.cluster.nodes().for_each(|node| package::bare(node).unwrap());
    scenario.prepare().unwrap();
    let node = |index| scenario.node(index).unwrap();
    // What hangs on node1 hangs for a quarter of a minute.
    let controller = Controller::new(&scenario, 2, "nodectl_run_minutes=0.25");

    install(&controller, node(1));
    controller.play("migrate", &["--check", "--diff"]).changed([1; 3]).says("+rename-overlay");
    assert!((1..=3).all(|index| !has(node(index), "/var/lib/nodectl/journal")));
    stops_at_a_node_that_hangs(&scenario, &controller);
    goes_on_when_the_connection_is_back(&scenario, &controller);
    let config = r#"{"nodectl_config": {"confirm_timeout": "30m"}}"#;
    controller.play("migrate", &["-e", config]).changed([0; 3]);
    asks_after_the_canary(&controller);
    let line = "node1: new pods get calico; last run flannel to calico, switched; nothing amiss";
    controller.play("report", &[]).changed([0; 3]).says(line);

    controller.play("revert", &["--check", "--diff"]).changed([1; 3]).says("+rename-overlay");
    scenario.must_be_on(1, Cni::Calico).unwrap();
    // The control plane goes back first.
    let is_closed = || !has(node(3), "/var/lib/nodectl/open");
    cut_off(&controller, "revert", node(3), &["-e", "nodectl_run_minutes=30"], is_closed).changed([1; 3]);
    controller.play("revert", &[]).changed([0; 3]);
    (1..=3).for_each(|index| scenario.must_be_on(index, Cni::Flannel).unwrap());
    scenario.settled().unwrap();

    let shims = || (1..=3).filter(|index| has(node(*index), "/etc/cni/net.d/00-cni-shim.conflist")).count();
    controller.play("cleanup", &["--check"]).changed([1; 3]);
    assert_eq!(shims(), 3);
    controller.play("cleanup", &["-e", "nodectl_run_minutes=30"]).changed([1; 3]);
    assert_eq!(shims(), 0);
    controller.play("cleanup", &[]).changed([0; 3]);
}

/// What the .rpm asks for is on the node from Debian's packages; one of rpm's says so, as dnf knows no others.
const STAND_IN: &str = "cat > /root/stand-in.spec <<'END'
Name: stand-in
Version: 1
Release: 1
Summary: What Debian's packages provide
License: Apache-2.0
BuildArch: noarch
Provides: /bin/sh iptables ipset iproute kmod
%description
What Debian's packages provide.
%files
END
rpmbuild --quiet --define '_topdir /root/rpmbuild' -bb /root/stand-in.spec
rpm --force-debian -i /root/rpmbuild/RPMS/noarch/stand-in-1-1.noarch.rpm";

#[test]
fn the_rpm_is_installed_once_by_dnf() {
    let options =
        Options { nodes: 1, kinds: vec![Kind::Full], network: Network::None, api: false, ..Options::default() };
    let cluster = Cluster::start(options).unwrap();
    let node = cluster.node(1).unwrap();
    package::bare(node).unwrap();
    node.sh(STAND_IN).unwrap();
    let controller = Controller::of("[kube_node]\nnode1\n", &[node], &Packages::under_test().unwrap().rpm);

    let checked = controller.play("install", &["--check", "--diff"]);
    assert!(checked.code == 0 && !has(node, "/var/cache/nodectl"), "{}", checked.text);
    assert!(!node.exec(&["rpm", "-q", "nodectl"]).unwrap().ok());
    controller.play("install", &[]).changed([6]);
    node.sh("rpm -V nodectl; nodectl --version; systemctl is-enabled nodectl-reap.timer").unwrap();
    controller.play("install", &[]).changed([0]);
    controller.play("install", &["--check"]).changed([0]);
    // A package that has gone comes back, and a check run says that it would.
    node.sh("rpm --force-debian -e nodectl").unwrap();
    let checked = controller.play("install", &["--check"]);
    assert!(checked.code == 0 && checked.recap("node1").contains(" changed=1 "), "{}", checked.text);
    assert!(!has(node, "/usr/bin/nodectl"), "{}", checked.text);
}
