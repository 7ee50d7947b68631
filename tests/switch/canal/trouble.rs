//! Nodes on Canal in trouble on their way to Calico and back; and the end of Canal.

use nix::sys::signal::Signal;
use nodectl_lab::cluster::{Options, until};
use nodectl_lab::scenario::crash::Sample;
use nodectl_lab::scenario::{Cni, PATIENCE, Scenario};

use super::{MIGRATE, SET, must_be_on};

fn with_units(options: &mut Options) {
    Options::canal(options);
    options.boot_units();
}

fn prepared() -> Scenario {
    let scenario = Scenario::start(2, &Scenario::workloads(3), with_units).unwrap();
    scenario.spread_pods().unwrap();
    scenario.prepare().unwrap();
    scenario
}

/// On this CNI, whole, and nothing is left of anything.
#[track_caller]
fn must_have_come_to(scenario: &Scenario, cni: Cni, stage: &str) {
    scenario.must_be_settled(1, cni).unwrap_or_else(|error| panic!("{stage}: {error:#}"));
    must_be_on(scenario, 1, cni);
    scenario.must_be_whole_and_tidy(stage).unwrap();
}

#[track_caller]
fn back_to_canal(scenario: &Scenario, stage: &str) {
    scenario.nodectl(1, &["migrate", "--to", "flannel", "--yes"]).unwrap().expect(0).unwrap();
    must_have_come_to(scenario, Cni::Flannel, stage);
}

/// The API server dies as a step begins and comes back when nodectl has ended.
fn without_the_server_from(scenario: &mut Scenario, step: &str) {
    let mut run = scenario.drive(1, &Scenario::switch_args("calico", &[])).unwrap();
    assert!(run.until("step", step).unwrap());
    scenario.cluster.api().unwrap().kill();
    let done = run.finish().unwrap();
    assert!([4, 5].contains(&done.code), "{step}: {}", done.all());
    let links = scenario.node(1).unwrap().sh("ip -br link; ls /etc/cni/net.d").unwrap();
    assert!(links.contains("flannel.1") && !links.contains("vxlan.calico"), "{step}: {links}\n{}", done.all());
    assert!(links.contains("10-canal.conflist") && !links.contains("10-calico.conflist"), "{step}: {links}");
    scenario.restart_api().unwrap();
    // What is owed is paid by the boot-time unit that tries again.
    until(PATIENCE, || Ok(scenario.is_open(1)?.then(|| format!("the run is open still: {}", done.all())))).unwrap();
    must_have_come_to(scenario, Cni::Flannel, &format!("the API server was dead from {step} on"));
}

/// The power fails at a point, and the boot-time units do the rest.
fn power_cut_at(scenario: &Scenario, place: &str, point: usize) {
    let died = scenario.dies_at(1, &MIGRATE, &point.to_string()).unwrap();
    if died {
        let node = scenario.node(1).unwrap();
        node.power_cut().unwrap();
        node.start().unwrap();
    }
    // The units were enabled by the run's first step; one that died before has nothing to settle.
    let enabled = scenario.node(1).unwrap().unit_state("nodectl-settle.service").unwrap().file == "enabled";
    if !enabled && scenario.is_open(1).unwrap() {
        scenario.nodectl(1, &["resume", "--yes"]).unwrap().expect(0).unwrap();
    }
    until(PATIENCE, || Ok(scenario.is_open(1)?.then(|| format!("{place}: the run is open still")))).unwrap();
    let cni = scenario.comes_to_one_of_both(1, PATIENCE).unwrap_or_else(|error| panic!("{place}: {error:#}"));
    must_have_come_to(scenario, cni, place);
    if cni == Cni::Calico {
        back_to_canal(scenario, &format!("{place}, and back"));
    }
}

#[test]
fn a_dead_server_or_a_power_cut_on_the_way_from_canal_ends_on_one_cni() {
    let mut scenario = prepared();
    let points = scenario.fault_points(1, |env| scenario.nodectl_with(1, &MIGRATE, env)).unwrap();
    back_to_canal(&scenario, "a whole switch there and back");
    for step in ["start-agent", "await-pods"] {
        without_the_server_from(&mut scenario, step);
    }
    for n in Sample::from_environment().of(points.len(), 3) {
        power_cut_at(&scenario, &format!("power cut at point {n} of {}, {}", points.len(), points[n - 1]), n);
    }
}

#[test]
fn a_way_back_to_canal_that_is_killed_is_finished_or_taken_back() {
    let scenario = prepared();
    scenario.migrate(1, Cni::Calico).unwrap();
    let back = ["migrate", "--to", "flannel", "--yes"];
    let points = scenario.fault_points(1, |env| scenario.nodectl_with(1, &back, env)).unwrap();
    must_have_come_to(&scenario, Cni::Flannel, "back on Canal");
    for (i, n) in Sample::from_environment().of(points.len(), 4).into_iter().enumerate() {
        let place = format!("point {n} of {} of the way back, {}", points.len(), points[n - 1]);
        println!("{place}");
        scenario.migrate(1, Cni::Calico).unwrap();
        if scenario.dies_at(1, &back, &n.to_string()).unwrap() && scenario.is_open(1).unwrap() {
            let (args, end) =
                if i % 2 == 0 { (["resume", "--yes"], Cni::Flannel) } else { (["revert", "--yes"], Cni::Calico) };
            scenario.nodectl(1, &args).unwrap().expect(0).unwrap();
            if end == Cni::Calico {
                must_have_come_to(&scenario, end, &place);
            }
        }
        back_to_canal(&scenario, &place);
    }
    scenario.spread_pods().unwrap();
    scenario.nodectl(1, &["shim", "retire", "--yes"]).unwrap().expect(0).unwrap();
    must_have_come_to(&scenario, Cni::Flannel, "without the shim");
    let left =
        scenario.node(1).unwrap().sh("ls -d /etc/cni/net.d/00-* /opt/cni/bin/cni-shim /var/lib/cni-shim || true");
    assert_eq!(left.unwrap(), "", "traces of the shim");
}

/// Calico's own calico-node runs again while what came of Canal is seen off.
#[test]
fn a_stop_on_the_way_back_to_canal_leaves_the_node_on_calico() {
    let scenario = prepared();
    scenario.migrate(1, Cni::Calico).unwrap();
    for step in ["start-agent", "probe"] {
        scenario.spread_pods().unwrap();
        let mut run = scenario.drive(1, &Scenario::switch_args("flannel", &[])).unwrap();
        assert!(run.until("step", step).unwrap(), "{step}: {}", run.finish().unwrap().all());
        run.signal(Signal::SIGTERM).unwrap();
        run.finish().unwrap().expect(4).unwrap();
        must_have_come_to(&scenario, Cni::Calico, &format!("stopped at {step} of the way back"));
    }
    back_to_canal(&scenario, "not stopped any more");
}

/// All nodes on Calico: Canal goes, costs nobody anything, and pods come and go without it.
#[test]
fn canal_goes_when_no_node_is_on_it_any_more() {
    let scenario = prepared();
    scenario.migrate(1, Cni::Calico).unwrap();
    let early = scenario.cluster_command(&["finish"]).unwrap().expect(3).unwrap();
    assert!(early.all().contains("node2"), "{}", early.all());
    scenario.migrate(2, Cni::Calico).unwrap();
    scenario.cluster_command(&["finish"]).unwrap().expect(0).unwrap();
    assert!(scenario.client.find(SET).unwrap().is_none(), "Canal's DaemonSet is still there");
    scenario.cluster_command(&["finish"]).unwrap().expect(0).unwrap();
    scenario.must_be_whole_and_tidy("finished").unwrap();
    scenario.spread_pods().unwrap();
    scenario.must_be_whole_and_tidy("with other pods").unwrap();
}
