//! `nodectl cleanup --calico` on crowded nodes: all of Calico goes, in each of its manners, and nothing else.

#[path = "support/mod.rs"]
mod support;

use nodectl_lab::fixture;
use support::Ground;

/// The checks that the operators' list for flannel has, for Calico; users' own routes are left out.
const CHECKLIST: &str = concat!(
    "POOL=10.244.0.0/16 POOL6=fd00:244::/56 NETNAME=k8s-pod-network USERS='table 100'\n",
    include_str!("checklist-dump.sh"),
    include_str!("checklist-calico.sh")
);

/// Builds, looks without touching, cleans, and finds the crowd as it was; once more finds nothing.
fn cleaned(name: &str) -> serde_json::Value {
    clean(fixture::CALICO.iter().find(|(n, _)| *n == name).unwrap().1)
}

fn clean(script: &str) -> serde_json::Value {
    let ground = Ground::crowded();
    ground.build(script);
    let would = ground.would(&["--calico"]);
    assert_eq!(would["outcome"], "would-remove", "{would:#}");
    ground.must_go("--calico", CHECKLIST);
    would
}

#[test]
fn vxlan_on_iptables_with_pods_that_the_runtime_has_forgotten() {
    let would = cleaned("vxlan");
    assert_eq!(would["counts"]["sets"], 8, "{would:#}");
    assert!(would["undecided"].to_string().contains("192.0.2.0/24"), "a VPN's route of protocol 80: {would:#}");
}

#[test]
fn bgp_with_what_bird_leaves_behind() {
    cleaned("bgp");
}

#[test]
fn native_nftables_and_the_table_of_wireguard() {
    let would = cleaned("nft");
    assert_eq!(would["counts"]["policy-rules"], 2, "{would:#}");
}

#[test]
fn ebpf_with_programs_at_hooks_that_others_use_too() {
    let would = clean(&fixture::calico_ebpf());
    // Two filters each on eth0 and on the administrator's bridge, eth0's qdisc and its XDP program; the bridge's qdisc stays.
    assert_eq!(would["counts"]["hooks"], 6, "{would:#}");
    assert_eq!(would["counts"]["pins"], 6, "{would:#}");
}

#[test]
fn canal_goes_in_two_steps() {
    let ground = Ground::crowded();
    ground.build(fixture::CANAL);
    ground.must(&["--flannel", "--yes"], 0);
    let links = ground.node().sh("ip -o link").unwrap();
    assert!(
        !links.contains("flannel.1") && ground.node().sh("ipset list -n").unwrap().contains("cali40all"),
        "{links}"
    );
    ground.must(&["--calico", "--yes"], 0);
    ground.must_print_nothing(CHECKLIST);
    // The plugin `flannel` comes with Calico's installer as well, and stayed while Calico was there.
    let would = ground.would(&["--flannel"]);
    assert_eq!(would["objects"].as_array().unwrap().len(), 1, "{would:#}");
    ground.must(&["--flannel", "--yes"], 0);
    ground.must_be_as_others_left_it();
}

#[test]
fn a_sysctl_goes_back_to_what_nodectl_had_noted() {
    let name = "net.ipv4.conf.all.rp_filter";
    let value = |ground: &Ground| ground.node().sh(&format!("sysctl -n {name}")).unwrap().trim().to_owned();
    let noted = format!("{}\nmkdir -p /var/lib/nodectl/snapshots; sysctl -qw {name}=2", fixture::FOREIGN);
    let ground = Ground::with(&noted);
    ground.build(&fixture::calico_ebpf());
    ground.build(&format!("sysctl -qw {name}=0"));
    // Nobody noted what it was: told, and left.
    assert!(ground.would(&["--calico"])["stays"].to_string().contains(name));
    ground.build(&format!(
        r#"echo '{{"sysctls":{{"{name}":"2"}}}}' > /var/lib/nodectl/snapshots/20261121t020000z-1.json"#
    ));
    assert!(ground.would(&["--calico"])["objects"].to_string().contains(&format!("{name}: 0 -> 2")));
    ground.must(&["--calico", "--yes"], 0);
    assert_eq!(value(&ground), "2");
}

#[test]
fn each_goes_without_the_other() {
    let [(_, flannel), ..] = fixture::FLANNEL;
    let [(_, calico), ..] = fixture::CALICO;
    let ground = Ground::with(&format!("{}\n{calico}", fixture::FOREIGN));
    ground.build(flannel);
    ground.must(&["--flannel", "--yes"], 0);
    // The plugin `flannel` comes with Calico's installer as well, and stays while Calico is there.
    ground.build("rm /opt/cni/bin/flannel");
    ground.must_be_as_others_left_it();
    let ground = Ground::with(&format!("{}\n{flannel}", fixture::FOREIGN));
    ground.build(calico);
    ground.must(&["--calico", "--yes"], 0);
    ground.must_be_as_others_left_it();
}
