//! iptables of both variants, ipsets and nftables in network namespaces of the test threads' own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use nodectl::facts::{Backend, Family};
use nodectl::host::{ipset, iptables, nft};

#[path = "support/namespace.rs"]
mod namespace;
use namespace::sh;

const KUBE: &str = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n";

#[test]
fn an_untouched_namespace_stays_untouched() {
    namespace::enter();
    assert!(iptables::saved().unwrap().is_empty());
    assert!(!iptables::chain_exists(Backend::Nft, Family::Ipv4, "nat", "POSTROUTING").unwrap());
    assert!(!iptables::chain_exists(Backend::Legacy, Family::Ipv6, "filter", "INPUT").unwrap());
    assert!(nft::tables().unwrap().is_empty() && ipset::names().unwrap().is_empty());
    assert_eq!(sh("nft list ruleset"), "");
    assert_eq!(std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default(), "");
}

#[test]
fn both_variants_are_read_and_written_apart() {
    namespace::enter();
    for (backend, tool) in [(Backend::Nft, "iptables-nft"), (Backend::Legacy, "iptables-legacy")] {
        sh(&format!("{tool} -t nat -A POSTROUTING -s 10.9.0.0/16 -m comment --comment 'mine # own' -j RETURN"));
        let before = iptables::save(backend, Family::Ipv4).unwrap();
        let add =
            "*nat\n:FLANNEL-POSTRTG - [0:0]\n-A FLANNEL-POSTRTG -j RETURN\n-A POSTROUTING -j FLANNEL-POSTRTG\nCOMMIT\n";
        iptables::restore(backend, Family::Ipv4, add).unwrap();
        assert!(iptables::chain_exists(backend, Family::Ipv4, "nat", "FLANNEL-POSTRTG").unwrap());
        assert!(!iptables::chain_exists(backend, Family::Ipv4, "nat", "FLANNEL").unwrap());
        let rules = iptables::list(backend, Family::Ipv4, "nat", "FLANNEL-POSTRTG").unwrap();
        assert!(rules.iter().any(|r| r.contains("-A FLANNEL-POSTRTG -j RETURN")), "{rules:?}");
        let remove = "*nat\n:FLANNEL-POSTRTG - [0:0]\n-D POSTROUTING -j FLANNEL-POSTRTG\n-X FLANNEL-POSTRTG\nCOMMIT\n";
        iptables::restore(backend, Family::Ipv4, remove).unwrap();
        let after = iptables::save(backend, Family::Ipv4).unwrap();
        assert!(
            after == before && after.contains("mine # own") && after.contains(":POSTROUTING ACCEPT [0:0]"),
            "{after}"
        );
        let bad = "*nat\n:X - [0:0]\n-A POSTROUTING -j NO-SUCH-CHAIN\nCOMMIT\n";
        let error = format!("{:#}", iptables::restore(backend, Family::Ipv4, bad).unwrap_err());
        assert!(error.contains("-restore --noflush -w 5") && error.contains("failed with status"), "{error}");
        assert_eq!(iptables::save(backend, Family::Ipv4).unwrap(), before);
    }
    let saved = iptables::saved().unwrap();
    let seen: Vec<_> = saved.iter().map(|s| (s.backend, s.family)).collect();
    assert_eq!(seen, [(Backend::Nft, Family::Ipv4), (Backend::Legacy, Family::Ipv4)]);
    assert_eq!(iptables::active(&saved), None);
    iptables::restore(Backend::Legacy, Family::Ipv6, KUBE).unwrap();
    assert_eq!(iptables::active(&iptables::saved().unwrap()), Some(Backend::Legacy));
    assert!(nft::tables().unwrap().is_empty());
}

#[test]
fn sets_are_destroyed_in_an_order_that_works() {
    namespace::enter();
    sh(
        "ipset create cali40s hash:net; ipset add cali40s 10.0.0.0/8; ipset create a-list list:set; ipset add a-list cali40s",
    );
    sh("ipset create admins hash:ip; ipset create cali60s hash:net family inet6");
    assert_eq!(ipset::names().unwrap(), ["a-list", "admins", "cali40s", "cali60s"]);
    let ours = ["cali40s", "a-list", "cali60s", "never-there"];
    let saved = ipset::save(&ours).unwrap();
    ipset::destroy(&ours).unwrap();
    assert_eq!(ipset::names().unwrap(), ["admins"]);
    ipset::destroy(&ours).unwrap();
    for _ in 0..2 {
        ipset::restore(&saved).unwrap();
    }
    assert_eq!(ipset::save(&ours).unwrap().lines().count(), saved.lines().count());
    sh("iptables-nft -A INPUT -m set --match-set cali40s src -j DROP; ipset destroy a-list");
    let error = format!("{:#}", ipset::destroy(&["cali40s"]).unwrap_err());
    assert!(error.contains("in use by a kernel component"), "{error}");
}

#[test]
fn native_tables_come_and_go_whole() {
    namespace::enter();
    sh(
        "nft add table ip calico; nft add chain ip calico filter-FORWARD; nft add rule ip calico filter-FORWARD counter drop",
    );
    sh("nft add table inet admin; iptables-nft -A INPUT -j ACCEPT; ip6tables-nft -t nat -A POSTROUTING -j RETURN");
    assert_eq!(nft::tables().unwrap(), ["inet admin", "ip calico"]);
    let saved = nft::save("ip calico").unwrap().unwrap();
    nft::delete_table("ip calico").unwrap();
    nft::delete_table("ip calico").unwrap();
    assert_eq!(nft::tables().unwrap(), ["inet admin"]);
    assert_eq!(nft::save("ip calico").unwrap(), None);
    nft::restore(&saved).unwrap();
    assert_eq!(nft::save("ip calico").unwrap().unwrap(), saved);
}
