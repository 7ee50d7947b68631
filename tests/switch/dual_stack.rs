//! Clusters with IPv4 and IPv6: a node goes to Calico and back with both overlays, and every stage is whole in both families.

use anyhow::{Context as _, Result, bail, ensure};
use nodectl_lab::cluster::Options;
use nodectl_lab::scenario::crash::Sample;
use nodectl_lab::scenario::{Cni, Scenario};

/// The arguments of the switch that is disturbed.
const MIGRATE: [&str; 6] = ["migrate", "--yes", "--drain-timeout", "60", "--agent-timeout", "60"];

fn start(nodes: u8) -> Scenario {
    let scenario = Scenario::start(nodes, &Scenario::workloads(3), Options::dual_stack).unwrap();
    // host-local never turns back in a /64: on a node that has been on flannel for long, pods are far from the first blocks.
    for index in 1..=usize::from(nodes) {
        let last = format!("fd00:10:244:{index}::5000");
        let file = "/var/lib/cni/networks/cbr0/last_reserved_ip.1";
        scenario.node(index).unwrap().sh(&format!("test -s {file} && printf %s {last} > {file}")).unwrap();
    }
    scenario.spread_pods().unwrap();
    scenario.prepare().unwrap();
    scenario
}

/// What [`Scenario::must_be_on`] does not look at: nothing of the other CNI's IPv6 is left, and pods' addresses are of the node's own
/// pod CIDR, whichever CNI gives them.
fn must_carry_ipv6(scenario: &Scenario, index: usize, cni: Cni) -> Result<()> {
    let node = scenario.node(index)?;
    let routes = node.sh("ip -6 route show table all; ip -6 neigh show nud permanent")?;
    let foreign = if cni == Cni::Flannel { ["blackhole fd00:10:244", "cali"] } else { ["flannel", "cni0"] };
    if let Some(left) = foreign.iter().find(|word| routes.contains(**word)) {
        bail!("{left} is left on node{index}:\n{routes}");
    }
    for pod in scenario.pods()?.iter().filter(|pod| pod["spec"]["nodeName"] == node.name()) {
        let ips = pod["status"]["podIPs"].as_array().context("a pod without addresses")?;
        let second = ips.get(1).and_then(|ip| ip["ip"].as_str()).unwrap_or_default();
        ensure!(second.starts_with(&format!("fd00:10:244:{index}:")), "{}: {ips:?}", pod["metadata"]["name"]);
    }
    Ok(())
}

#[track_caller]
fn must_be_on(scenario: &Scenario, index: usize, cni: Cni) {
    scenario.must_be_on(index, cni).unwrap();
    must_carry_ipv6(scenario, index, cni).unwrap();
}

#[test]
fn nodes_of_both_families_go_to_calico_and_back() {
    let scenario = start(2);
    scenario.must_be_whole_and_tidy("prepared").unwrap();
    let blocks = scenario.blocks().unwrap();
    for index in 1..=2 {
        scenario.migrate(index, Cni::Calico).unwrap();
        must_be_on(&scenario, index, Cni::Calico);
        scenario.must_be_whole_and_tidy(&format!("{index} of 2 nodes on Calico")).unwrap();
        assert_eq!(scenario.blocks().unwrap(), blocks, "no block changes hands, and no other is claimed");
    }
    for (index, left) in [(1, 1), (2, 0)] {
        scenario.nodectl(index, &["revert", "--yes"]).unwrap().expect(0).unwrap();
        must_be_on(&scenario, index, Cni::Flannel);
        scenario.must_be_whole_and_tidy(&format!("back: {left} of 2 nodes on Calico")).unwrap();
    }
    scenario.cluster_command(&["abort"]).unwrap().expect(0).unwrap();
    assert!(scenario.blocks().unwrap().is_empty(), "abort takes the blocks of both families away");
}

#[test]
fn both_overlays_change_hands_where_a_device_is_renamed_only_while_it_is_down() {
    let scenario = start(2);
    let renames = [("NODECTL_FAULT_RENAMES", "1")];
    scenario.nodectl_with(1, &["migrate", "--yes"], &renames).unwrap().expect(0).unwrap();
    must_be_on(&scenario, 1, Cni::Calico);
    scenario.must_be_whole_and_tidy("1 of 2 nodes on Calico").unwrap();
    scenario.nodectl_with(1, &["revert", "--yes"], &renames).unwrap().expect(0).unwrap();
    must_be_on(&scenario, 1, Cni::Flannel);
    scenario.must_be_whole_and_tidy("back on flannel").unwrap();
}

#[test]
fn a_switch_of_both_families_that_is_killed_is_finished_or_taken_back() {
    let scenario = start(2);
    let points = scenario.fault_points(1, |env| scenario.nodectl_with(1, &MIGRATE, env)).unwrap();
    scenario.nodectl(1, &["revert", "--yes"]).unwrap().expect(0).unwrap();
    must_be_on(&scenario, 1, Cni::Flannel);
    // Where the overlays change hands, and some of the other places.
    let overlays = points.iter().enumerate().filter(|(_, point)| point.contains("rename_link")).map(|(at, _)| at + 1);
    let mut places: Vec<usize> = overlays.chain(Sample::from_environment().of(points.len(), 2)).collect();
    places.sort_unstable();
    places.dedup();
    for (i, n) in places.into_iter().enumerate() {
        let place = format!("point {n} of {}, {}", points.len(), points[n - 1]);
        println!("{place}");
        let died = scenario.dies_at(1, &MIGRATE, &n.to_string()).unwrap();
        if died && scenario.is_open(1).unwrap() && i % 2 == 0 {
            scenario.nodectl(1, &["resume", "--yes"]).unwrap().expect(0).unwrap();
            must_be_on(&scenario, 1, Cni::Calico);
            scenario.must_be_whole_and_tidy(&format!("{place}, resumed")).unwrap();
        }
        if scenario.is_open(1).unwrap() || scenario.one_of_both(1).unwrap() == Cni::Calico {
            scenario.nodectl(1, &["revert", "--yes"]).unwrap().expect(0).unwrap();
        }
        must_be_on(&scenario, 1, Cni::Flannel);
        scenario.must_be_whole_and_tidy(&format!("{place}, taken back")).unwrap();
    }
}
