//! What depends on flannel's release: whether it puts its device back, whether it takes its rules with it.

use std::time::Duration;

use nodectl_lab::cluster::until;
use nodectl_lab::scenario::Cni;
use serde_json::json;

use super::bench::{Bench, pause};

/// From 0.27.4 flanneld makes a deleted device again; Calico's then has no room beside it.
#[test]
fn a_device_deleted_under_a_running_flanneld_comes_back() {
    let bench = Bench::new("0.27", |_| {});
    let delete = json!({"step": "delete-overlay", "link": "flannel.1", "why": "for this test"});
    let case = "flannel's device is deleted while flanneld runs: it comes back";
    let plan = bench.plan(Cni::Calico).without("rename-overlay").unwrap();
    let early = plan.with_new_after(pause(), "hold").unwrap().with_new_after(delete.clone(), "hold").unwrap();
    bench.fails(case, &early, Cni::Flannel, "vxlan.calico");

    let case = "deleted after flanneld has left, it stays away";
    println!("{case}");
    let late =
        bench.plan(Cni::Calico).without("rename-overlay").unwrap().with_new_after(delete, "stop-sandboxes").unwrap();
    bench.scenario.carry_out(1, &late, &[]).unwrap().expect(0).unwrap();
    bench.is_whole(case, Cni::Calico);
}

/// 0.25.0 to 0.26.7 take their rules with them when they leave: until Calico's stand, a node that forwards nothing by itself
/// (as Docker leaves it) cuts its pods off, unless the rules are put back.
#[test]
fn flannel_0_26_takes_its_rules_with_it() {
    let bench = Bench::new("0.26.7", |_| {});
    bench.node().sh("iptables-nft -P FORWARD DROP").unwrap();
    assert!(bench.is_reached());
    let case = "flannel's rules are not kept";
    let without = bench.plan(Cni::Calico).without("keep-flannel-rules").unwrap().broken_after("stop-agent").unwrap();
    bench.stands_open(case, &without);
    assert!(!bench.is_reached(), "{case}: pods are reached without any rule that lets them");
    bench.taken_back(case, Cni::Flannel);
    let case = "flannel's rules are kept";
    let with = bench.plan(Cni::Calico).broken_after("keep-flannel-rules").unwrap();
    bench.stands_open(case, &with);
    assert!(bench.is_reached(), "{case}: pods are not reached");
    bench.taken_back(case, Cni::Flannel);
    bench.scenario.migrate(1, Cni::Calico).unwrap();
    bench.is_whole("the right order", Cni::Calico);
}

/// Releases before and after leave them where they are; then there is nothing to put back.
#[test]
fn flannel_0_24_leaves_its_rules_behind() {
    let bench = Bench::new("0.24", |_| {});
    bench.node().sh("iptables-nft -P FORWARD DROP").unwrap();
    let case = "flannel 0.24 leaves";
    let without = bench.plan(Cni::Calico).without("keep-flannel-rules").unwrap().broken_after("stop-agent").unwrap();
    bench.stands_open(case, &without);
    until(Duration::from_secs(5), || Ok((!bench.is_reached()).then(|| "pods are cut off".into()))).unwrap();
    bench.taken_back(case, Cni::Flannel);
    bench.scenario.migrate(1, Cni::Calico).unwrap();
    bench.is_whole("the right order", Cni::Calico);
    bench.scenario.nodectl(1, &["revert", "--yes"]).unwrap().expect(0).unwrap();
    bench.is_whole("and back", Cni::Flannel);
}
