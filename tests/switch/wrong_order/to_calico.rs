//! flannel -> Calico, one thing at another place.

use std::time::Duration;

use nodectl_lab::cluster::until;
use nodectl_lab::objects::workloads;
use nodectl_lab::scenario::{Cni, PATIENCE, SavedPlan};
use nodectl_lab::traffic::{Endpoint, Traffic};

use super::bench::Bench;

const FLANNEL: Cni = Cni::Flannel;

fn plan(bench: &Bench) -> SavedPlan {
    bench.plan(Cni::Calico)
}

#[test]
fn agents_and_overlay() {
    let bench = Bench::new("0.26.7", |_| {});
    let case =
        "Calico is started before flannel has left: flannel.1 stands, and felix cannot make its own device (EEXIST)";
    bench.fails(case, &plan(&bench).with_before("start-agent", "stop-agent").unwrap(), FLANNEL, "vxlan.calico");
    let case = "the overlay is neither renamed nor deleted: the same";
    bench.fails(case, &plan(&bench).without("rename-overlay").unwrap(), FLANNEL, "vxlan.calico");
    cleaned_before_calico_stands(&bench);
    released_before_calico_serves(&bench);
}

/// flannel's device goes while nobody serves: the host loses the pods of its peers. In the right order it loses nothing.
fn cleaned_before_calico_stands(bench: &Bench) {
    let case = "flannel is cleaned away before Calico stands";
    println!("{case}");
    let from_host = [(Endpoint::Host("node1".into()), bench.probe(2))];
    let traffic = Traffic::start(&bench.scenario.cluster, &from_host, 50).unwrap();
    let early = plan(bench).with_after("clean", "stop-agent").unwrap();
    // Long enough for Calico to come, which makes its own device then.
    let done = bench.scenario.carry_out(1, &early, &[]).unwrap();
    let wrong = traffic.finish().remove(0);
    assert!([0, 4, 5].contains(&done.code), "{case}: {}", done.all());
    let is_open = done.code == 5;
    if is_open || bench.scenario.comes_to_one_of_both(1, Duration::from_secs(60)).unwrap() == Cni::Calico {
        bench.scenario.nodectl(1, &["revert", "--yes"]).unwrap().expect(0).unwrap();
    }
    bench.is_whole(case, FLANNEL);
    let traffic = Traffic::start(&bench.scenario.cluster, &from_host, 50).unwrap();
    bench.scenario.migrate(1, Cni::Calico).unwrap();
    let right = traffic.finish().remove(0);
    bench.scenario.nodectl(1, &["revert", "--yes"]).unwrap().expect(0).unwrap();
    bench.is_whole(case, FLANNEL);
    println!("  wrong: {wrong}\n  right: {right}");
    assert!(wrong.longest_gap > Duration::from_millis(500), "{wrong}");
    assert!(right.longest_gap < Duration::from_millis(500) && wrong.longest_gap > right.longest_gap * 2, "{right}");
}

/// Pods that waited are sent to a plugin that is not there.
fn released_before_calico_serves(bench: &Bench) {
    let case = "the hold is released before Calico serves";
    bench.forget_events();
    let early = plan(bench).with_before("release", "start-agent").unwrap().broken_after("release").unwrap();
    bench.stands_open(case, &early);
    until(Duration::from_secs(75), || {
        Ok((!bench.fails_to_attach()).then(|| "no pod's sandbox fails, though nobody serves".into()))
    })
    .unwrap();
    bench.taken_back(case, FLANNEL);
}

#[test]
fn pods_and_hold() {
    let bench = Bench::new("0.26.7", |_| {});
    let case =
        "sandboxes are not stopped before Calico starts: felix blackholes the node's blocks, pods on cni0 are cut off";
    assert!(bench.is_reached());
    let plan_without = plan(&bench).without("stop-sandboxes").unwrap();
    bench.stands_open(case, &plan_without.clone().broken_after("start-agent").unwrap());
    assert!(bench.node().sh("ip route").unwrap().contains("blackhole 10.244.1."), "{case}");
    assert!(!bench.is_reached(), "{case}: the pod on cni0 is still reached");
    bench.taken_back(case, FLANNEL);
    let plan_without = plan(&bench).without("stop-sandboxes").unwrap();
    bench.fails(case, &plan_without, FLANNEL, "");

    let case = "no hold: a pod that is rebuilt in mid-switch gets flannel once more";
    let plan_without = plan(&bench).without("hold").unwrap();
    bench.fails_with(case, &plan_without, &["--deadline", "45s"], FLANNEL, "");
    conflist_before_binary(&bench);
}

/// From the moment the runtime reads the shim's conflist, every pod needs the shim's binary.
fn conflist_before_binary(bench: &Bench) {
    let case = "the shim's conflist comes before its binary";
    bench.forget_events();
    let plan = plan(bench).without("install-shim-binary").unwrap().broken_after("install-shim-conflist").unwrap();
    bench.stands_open(case, &plan);
    bench.scenario.cluster.install(&[workloads::bare("stranded", Some("node1"))]).unwrap();
    until(PATIENCE, || {
        Ok((!bench.fails_to_attach()).then(|| "a pod's sandbox is made without the shim's binary".into()))
    })
    .unwrap();
    let pod = bench.scenario.client.get("/api/v1/namespaces/default/pods/stranded").unwrap();
    assert_ne!(pod["status"]["phase"], "Running", "{case}: {pod}");
    bench.taken_back(case, FLANNEL);
    bench.scenario.client.delete("/api/v1/namespaces/default/pods/stranded").unwrap();
}
