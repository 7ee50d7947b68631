//! `nodectl cleanup --flannel` on crowded nodes: all of flannel goes, in each of its manners, and nothing else.

#[path = "support/mod.rs"]
mod support;

use nodectl_lab::fixture;
use support::Ground;

/// The checks of operators' lists; the user's own rules and routes inside the pod network are left out.
const CHECKLIST: &str = concat!(
    "NET=10.244.0.0/16 NET6=fd00:244::/56 POD=10.244.1.0/24 NETNAME=cbr0\n",
    "USERS='br-user|FLANNEL-NOTES|dport 8472|10.244.20[35]|10.244.9.0/24|172.30'\n",
    include_str!("checklist-dump.sh"),
    include_str!("checklist-flannel.sh")
);

fn manner(name: &str) -> &'static str {
    fixture::FLANNEL.iter().find(|(n, _)| *n == name).unwrap().1
}

/// Builds, looks without touching, cleans, and finds the crowd as it was; once more finds nothing.
fn cleaned(name: &str) -> serde_json::Value {
    let ground = Ground::crowded();
    ground.build(manner(name));
    let built = ground.snapshot();
    let would = ground.would(&["--flannel"]);
    assert_eq!(would["outcome"], "would-remove", "{would:#}");
    let touched = built.diff(&ground.snapshot());
    assert!(touched.is_empty(), "a dry run changed {touched:?}");
    assert_eq!(ground.cleanup(&["--flannel", "--dry-run", "--detailed-exitcode"]).code, 2);
    ground.must_go("--flannel", CHECKLIST);
    would
}

#[test]
fn vxlan_with_both_families_and_both_backends() {
    let would = cleaned("vxlan");
    assert_eq!(
        would["counts"]["links"], 6,
        "two overlays, the bridge, three devices of the bandwidth plugin: {would:#}"
    );
}

#[test]
fn host_gw_with_rules_that_have_no_name() {
    let would = cleaned("host-gw");
    assert_eq!(would["counts"]["routes"], 4, "{would:#}");
    assert_eq!(would["counts"]["rules"], 6, "{would:#}");
}

#[test]
fn native_tables_and_ipsec() {
    let would = cleaned("nft");
    assert_eq!(would["counts"]["nft-tables"], 2, "{would:#}");
    assert_eq!(would["counts"]["nft-rules"], 2, "{would:#}");
    assert_eq!(would["counts"]["ipsec"], 6, "{would:#}");
}
