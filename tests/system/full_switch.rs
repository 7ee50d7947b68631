//! The switch on full nodes: a real containerd's sandboxes and reloads, and real systemd jobs at a boot in mid-switch.

use std::process::Stdio;

use nodectl_lab::node::{Kind, Node};
use nodectl_lab::scenario::{Cni, Off, Scenario};
use nodectl_lab::wait::{PATIENCE, eventually};

/// A full and a light node with flannel and pods, the cluster prepared.
fn scenario() -> Scenario {
    let scenario = Scenario::start(2, &Scenario::workloads(3), |options| options.kinds = vec![Kind::Full]).unwrap();
    scenario.settled().unwrap();
    scenario.prepare().unwrap();
    scenario
}

/// A property of a unit.
fn property(node: &dyn Node, unit: &str, name: &str) -> String {
    node.must(&["systemctl", "show", "--value", "-p", name, unit]).unwrap().trim().to_owned()
}

#[test]
fn a_full_node_goes_to_calico_reboots_there_and_comes_back() {
    let scenario = scenario();
    let node = scenario.node(1).unwrap();
    scenario.migrate(1, Cni::Calico).unwrap();
    scenario.must_be_on(1, Cni::Calico).unwrap();
    scenario.settled().unwrap();
    scenario.boot_anew(1, Off::Orderly).unwrap();
    scenario.must_be_on(1, Cni::Calico).unwrap();
    scenario.settled().unwrap();
    // Nothing of nodectl has a part in a boot after a closed run.
    assert_eq!(property(node, "nodectl-boot.service", "UnitFileState"), "disabled");
    scenario.nodectl(1, &["revert", "--yes"]).unwrap().expect(0).unwrap();
    scenario.must_be_on(1, Cni::Flannel).unwrap();
    scenario.settled().unwrap();
}

/// Waits until the switch has come to its middle.
fn comes_half_way(node: &dyn Node) {
    eventually("the device is renamed", || {
        node.exec(&["ip", "link", "show", "vxlan.calico"]).is_ok_and(|link| link.ok())
    });
}

/// Boots the node, whose boot-time units end the run.
fn boots_and_settles(scenario: &Scenario) {
    let node = scenario.node(1).unwrap();
    node.start().unwrap();
    // Files first, before anything can make a sandbox; the rest once the network is there.
    let time = |unit: &str, name: &str| property(node, unit, name).parse::<u64>().unwrap();
    let ended = time("nodectl-boot.service", "ExecMainExitTimestampMonotonic");
    assert_eq!(property(node, "nodectl-boot.service", "Result"), "success");
    assert!(ended > 0 && ended <= time("containerd.service", "ExecMainStartTimestampMonotonic"));
    eventually("the run is closed", || !node.path("/var/lib/nodectl/open").unwrap().exists());
    let journal = node.sh("journalctl -b --no-pager -u nodectl-boot -u nodectl-settle").unwrap();
    let come = scenario.comes_to_one_of_both(1, PATIENCE);
    come.unwrap_or_else(|error| panic!("{error:#}; the units said: {journal}"));
    scenario.settled().unwrap();
    for unit in ["nodectl-boot.service", "nodectl-settle.service"] {
        assert_eq!(property(node, unit, "UnitFileState"), "disabled", "{unit}");
    }
}

#[test]
fn a_power_cut_in_mid_switch_is_settled_by_the_boot_time_units() {
    let scenario = scenario();
    let node = scenario.node(1).unwrap();
    let mut migrate = scenario.nodectl_command(1, &["migrate", "--to", "calico", "--yes"], &[]).unwrap();
    let mut migrate = migrate.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    comes_half_way(node);
    node.power_cut().unwrap();
    migrate.wait().unwrap();
    boots_and_settles(&scenario);
}

#[test]
fn a_reboot_in_mid_switch_does_not_wait_for_the_way_back_and_is_settled_at_boot() {
    let scenario = scenario();
    let node = scenario.node(1).unwrap();
    node.sh("mkdir -p /etc/nodectl; echo \"to = 'calico'\" >/etc/nodectl/config.toml").unwrap();
    node.must(&["systemctl", "start", "--no-block", "cni-migrate"]).unwrap();
    comes_half_way(node);
    node.shutdown().unwrap();
    boots_and_settles(&scenario);
    // Kubelet and containerd go down with the machine: the stop did not begin the way back, which would have waited for them.
    let journal = node.sh("cat /var/lib/nodectl/journal/*.jsonl").unwrap();
    let of = |what: &str| journal.lines().position(|line| line.contains(&format!("{{\"record\":\"{what}\"")));
    let (stopped, attached, reverting) = (of("failed"), of("attach"), of("reverting"));
    assert!(journal.contains("stopped by the machine's shutdown"), "{journal}");
    assert!(stopped.is_some() && stopped < attached && reverting.is_none_or(|at| Some(at) > attached), "{journal}");
}
