//! Calico's IPAM objects, as libcalico writes them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::IpAddr;

use ipnet::IpNet;
use nodectl::cluster::ipam::{self, Reservation};
use serde_json::json;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn names_are_calicos() {
    assert_eq!(ipam::block_ref(net("10.244.1.64/26")).name, "10-244-1-64-26");
    assert_eq!(ipam::affinity_ref("node1", net("10.244.1.64/26")).name, "node1-10-244-1-64-26");
    assert_eq!(ipam::block_ref(net("fd00:10:244:1::40/122")).name, "fd00-10-244-1--40-122");
    assert_eq!(ipam::affinity_ref("node1", net("fd00:10:244:1::/122")).name, "node1-fd00-10-244-1---122");
    assert_eq!(ipam::handle_ref("vxlan-tunnel-addr-Node1").name, "vxlan-tunnel-addr-node1");
}

#[test]
fn an_affinity_carries_the_labels_that_calico_looks_for() {
    let affinity = ipam::affinity("node1", net("10.244.1.0/26"));
    // base32(sha3-256("node1")) without padding, computed with Python's hashlib and base64.
    let hash = "7DS2CCNJGGLTHBDQLLFO6SX24SY2YDDEG3W2VN556FA2W4DLLV5A";
    assert_eq!(affinity["metadata"]["labels"]["projectcalico.org/hostname-hash"], json!(hash));
    assert_eq!(affinity["spec"]["deleted"], json!("false"));
}

#[test]
fn an_ipv4_pod_cidr_is_whole_blocks_and_of_an_ipv6_one_the_first_are_claimed() {
    assert_eq!(ipam::blocks(net("10.244.1.0/24"), 26, usize::MAX).len(), 4);
    assert_eq!(ipam::blocks(net("10.244.1.0/26"), 26, usize::MAX), [net("10.244.1.0/26")]);
    assert!(ipam::blocks(net("10.244.1.0/27"), 26, usize::MAX).is_empty());
    let first = [net("fd00:10:244:1::/122"), net("fd00:10:244:1::40/122")];
    assert_eq!(ipam::blocks(net("fd00:10:244:1::/64"), 122, 2), first);
}

#[test]
fn an_ipv6_block_has_the_overlays_address_and_the_bridges_taken() {
    let reserved = ipam::reservations("node1", net("fd00:10:244:1::/64"));
    let addresses: Vec<String> = reserved.iter().map(|r| r.address.to_string()).collect();
    assert_eq!(addresses, ["fd00:10:244:1::", "fd00:10:244:1::1"], "IPv6 has no broadcast address");
    let block = ipam::new_block("node1", net("fd00:10:244:1::/122"), &reserved, "2026-11-21T02:00:00Z", 7);
    assert_eq!(block["spec"]["allocations"].as_array().unwrap().len(), 64);
    let attributes = &block["spec"]["attributes"];
    assert_eq!(attributes[0]["handle_id"], "vxlan-v6-tunnel-addr-node1");
    assert_eq!(attributes[0]["secondary"]["type"], "vxlanV6TunnelAddress");
    assert_eq!(attributes[1]["handle_id"], "nodectl-reserved-node1", "one handle for both families");
    assert_eq!(ipam::holder(&block, address("fd00:10:244:1::1")).as_deref(), Some("nodectl-reserved-node1"));
    assert_eq!(ipam::holder(&block, address("fd00:10:244:1::2")), None);
    assert_eq!(ipam::holder(&block, address("10.244.1.1")), None, "of the other family");
    let held: Vec<String> = ipam::held(&block).into_iter().map(|(address, _)| address.to_string()).collect();
    assert_eq!(held, addresses);
    let affinity = ipam::affinity("node1", net("fd00:10:244:1::/122"));
    assert_eq!(affinity["metadata"]["labels"]["projectcalico.org/ip-version"], json!("6"));
}

#[test]
fn a_new_block_has_its_addresses_taken_from_the_start() {
    let reserved = ipam::reservations("node1", net("10.244.1.0/24"));
    assert_eq!(
        reserved.iter().map(|r| r.address.to_string()).collect::<Vec<_>>(),
        ["10.244.1.0", "10.244.1.1", "10.244.1.255"]
    );
    let first = ipam::new_block("node1", net("10.244.1.0/26"), &reserved, "2026-11-21T02:00:00Z", 7);
    assert_eq!(first["spec"]["allocations"][0], json!(0));
    assert_eq!(first["spec"]["allocations"][1], json!(1));
    assert_eq!(first["spec"]["unallocated"].as_array().unwrap().len(), 62);
    assert_eq!(first["spec"]["unallocated"][0], json!(2));
    assert_eq!(first["spec"]["sequenceNumberForAllocation"], json!({"0": 7, "1": 7}));
    assert_eq!(
        first["spec"]["attributes"],
        json!([
            {"handle_id": "vxlan-tunnel-addr-node1", "secondary": {"node": "node1", "type": "vxlanTunnelAddress"}},
            {"handle_id": "nodectl-reserved-node1", "secondary": {"node": "node1", "type": "vxlanTunnelAddress"}},
        ])
    );
    let last = ipam::new_block("node1", net("10.244.1.192/26"), &reserved, "2026-11-21T02:00:00Z", 7);
    assert_eq!(ipam::holder(&last, address("10.244.1.255")).as_deref(), Some("nodectl-reserved-node1"));
    assert_eq!(ipam::holder(&last, address("10.244.1.254")), None);
}

#[test]
fn reserving_and_releasing_leave_the_pods_of_a_block_alone() {
    let cidr = net("10.244.1.0/26");
    let mut block = ipam::new_block("node1", cidr, &[], "2026-11-21T02:00:00Z", 7);
    let pod = Reservation { address: address("10.244.1.5"), handle: "k8s-pod-network.abc".to_owned() };
    block = ipam::reserve(&block, "node1", &[pod]);
    let reserved = ipam::reservations("node1", net("10.244.1.0/24"));
    let taken = ipam::reserve(&block, "node1", &reserved);
    assert_eq!(ipam::handles(&taken), ["k8s-pod-network.abc", "vxlan-tunnel-addr-node1", "nodectl-reserved-node1"]);
    assert_eq!(ipam::reserve(&taken, "node1", &reserved), taken, "twice is once");
    let freed = ipam::release(&taken, "vxlan-tunnel-addr-node1");
    assert_eq!(ipam::holder(&freed, address("10.244.1.5")).as_deref(), Some("k8s-pod-network.abc"));
    assert_eq!(ipam::holder(&freed, address("10.244.1.1")).as_deref(), Some("nodectl-reserved-node1"));
    assert_eq!(ipam::holder(&freed, address("10.244.1.0")), None);
    assert_eq!(
        freed["spec"]["unallocated"].as_array().unwrap().last(),
        Some(&json!(0)),
        "it is the last to be given out again"
    );
    assert_eq!(freed["spec"]["sequenceNumberForAllocation"].as_object().unwrap().len(), 2);
    assert!(freed["spec"]["sequenceNumber"].as_u64() > taken["spec"]["sequenceNumber"].as_u64());
}
