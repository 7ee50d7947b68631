//! Without Calico's migration label on the nodes, its garbage collector gives the blocks of flannel's nodes away.

use nodectl_lab::client::Patch;
use nodectl_lab::scenario::Cni;
use serde_json::json;

use super::bench::Bench;

const LABEL: &str = "projectcalico.org/node-network-during-migration";

#[test]
fn blocks_are_given_away_without_the_migration_label() {
    let bench = Bench::new("0.26.7", |options| {
        options.api_arguments.extend(["--ipam-gc-grace-ms", "0"].map(str::to_owned));
    });
    let scenario = &bench.scenario;
    let collect = || {
        for _ in 0..3 {
            scenario.cluster.api().unwrap().control("gc").unwrap();
        }
        scenario.blocks().unwrap()
    };
    let blocks = scenario.blocks().unwrap();
    assert!(blocks.len() >= 8, "prepare claims every node's blocks: {blocks:?}");
    assert_eq!(collect(), blocks, "prepared");
    scenario.migrate(1, Cni::Calico).unwrap();
    scenario.settled().unwrap();
    assert_eq!(collect(), blocks, "one node on Calico");
    bench.is_whole("one node on Calico", Cni::Calico);
    for index in 1..=2 {
        let patch = json!({"metadata": {"labels": {LABEL: null}}});
        scenario.client.patch(&format!("/api/v1/nodes/node{index}"), Patch::Merge, &patch).unwrap();
    }
    let left = collect();
    let of = |blocks: &[(String, String)], node: &str| {
        blocks.iter().filter(|(_, owner)| *owner == format!("host:{node}")).count()
    };
    println!("blocks without the label: {left:?}");
    assert!(of(&left, "node2") < of(&blocks, "node2"), "the collector left node2 its blocks: {left:?}");
    assert!(of(&left, "node1") < of(&blocks, "node1"), "the collector left node1 its blocks: {left:?}");
    // prepare, run again, mends it.
    scenario.prepare().unwrap();
    assert_eq!(collect(), blocks, "prepared again");
}
