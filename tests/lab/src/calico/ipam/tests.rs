use serde_json::json;

use super::store::{self, GROUP};
use super::*;
use crate::agent::api::Api;
use crate::agent::memory::Memory;

fn cluster(strict: bool) -> Memory {
    let api = Memory::default();
    let pool = json!({"metadata": {"name": "default-ipv4-ippool"},
        "spec": {"cidr": "10.244.0.0/16", "blockSize": 26, "vxlanMode": "Always", "natOutgoing": true}});
    api.create(&format!("{GROUP}/ippools"), &pool).unwrap();
    let config = json!({"metadata": {"name": "default"}, "spec": {"strictAffinity": strict}});
    api.create(&format!("{GROUP}/ipamconfigs"), &config).unwrap();
    api
}

fn request(handle: &str) -> Request {
    let attributes = BTreeMap::from([("node".to_owned(), "n1".to_owned())]);
    Request { handle: handle.to_owned(), attributes, intended: Use::Workload }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn addresses_come_from_claimed_blocks_in_order_and_go_to_the_end_of_the_line() {
    let api = cluster(true);
    let ipam = Ipam::new(&api, "n1");
    assert_eq!(ipam.claim_affinity("10.244.1.0/24".parse().unwrap()).unwrap().len(), 4);
    assert_eq!(
        ipam.auto_assign(&request("a"), Family::V4).unwrap().addr(),
        address("10.244.1.0"),
        ".0 is given out like any other"
    );
    assert_eq!(ipam.auto_assign(&request("b"), Family::V4).unwrap().addr(), address("10.244.1.1"));
    assert_eq!(ipam.release_by_handle("a").unwrap().unwrap(), [address("10.244.1.0")]);
    assert_eq!(ipam.auto_assign(&request("c"), Family::V4).unwrap().addr(), address("10.244.1.2"));
    assert_eq!(ipam.release_by_handle("a").unwrap(), None, "released twice: there is no such handle any more");
}

#[test]
fn a_requested_address_that_is_taken_is_an_error_even_for_its_holder() {
    let api = cluster(true);
    let ipam = Ipam::new(&api, "n1");
    ipam.assign(address("10.244.1.7"), &request("a")).unwrap();
    let again = ipam.assign(address("10.244.1.7"), &request("a")).unwrap_err().to_string();
    assert!(again.contains("already assigned"), "{again}");
    assert_eq!(ipam.attribute_of(address("10.244.1.7")).unwrap().unwrap().handle_id.as_deref(), Some("a"));
    let count = store::handle_blocks(&api, "a").unwrap().unwrap();
    assert_eq!(count, ["10.244.1.0/26".parse::<IpNet>().unwrap()], "the block was claimed on the way");
}

#[test]
fn strict_affinity_forbids_borrowing() {
    for strict in [true, false] {
        let api = cluster(strict);
        Ipam::new(&api, "n1").claim_affinity("10.244.0.0/16".parse().unwrap()).unwrap();
        let other = Ipam::new(&api, "n2");
        assert_eq!(other.auto_assign(&request("a"), Family::V4).is_err(), strict);
        assert_eq!(other.assign(address("10.244.9.9"), &request("b")).is_err(), strict);
    }
}

#[test]
fn a_full_host_claims_another_block() {
    let api = cluster(true);
    let ipam = Ipam::new(&api, "n1");
    ipam.claim_affinity("10.244.1.0/26".parse().unwrap()).unwrap();
    let given: std::collections::BTreeSet<IpAddr> =
        (0..70).map(|number| ipam.auto_assign(&request(&format!("h{number}")), Family::V4).unwrap().addr()).collect();
    assert_eq!(given.len(), 70);
    assert_eq!(store::blocks(&api).unwrap().len(), 2);
}

#[test]
fn two_addresses_of_one_handle_leave_together() {
    let api = cluster(true);
    let ipam = Ipam::new(&api, "n1");
    ipam.assign(address("10.244.1.7"), &request("a")).unwrap();
    ipam.assign(address("10.244.1.9"), &request("b")).unwrap();
    ipam.assign(address("10.244.1.8"), &request("a")).unwrap();
    assert_eq!(ipam.release_by_handle("a").unwrap().unwrap().len(), 2);
    let block = store::block(&api, "10.244.1.0/26".parse().unwrap()).unwrap().unwrap().spec;
    assert_eq!(block.attributes.len(), 1, "attributes nobody points at are gone");
    assert_eq!(block.attribute_of(address("10.244.1.9")).unwrap().handle_id.as_deref(), Some("b"));
    assert!(block.sequence_number >= 4);
}

#[test]
fn ipv6_addresses_come_from_the_nodes_own_block_and_only_then_from_somewhere_in_the_pool() {
    let api = cluster(true);
    let pool = json!({"metadata": {"name": "default-ipv6-ippool"}, "spec": {"cidr": "fd00:10:244::/56", "vxlanMode": "Always"}});
    api.create(&format!("{GROUP}/ippools"), &pool).unwrap();
    let ipam = Ipam::new(&api, "n1");
    ipam.claim_affinity("fd00:10:244:1::/122".parse().unwrap()).unwrap();
    let given: Vec<IpAddr> =
        (0..65).map(|number| ipam.auto_assign(&request(&format!("h{number}")), Family::V6).unwrap().addr()).collect();
    assert_eq!(given[0], address("fd00:10:244:1::"));
    assert_eq!(given[63], address("fd00:10:244:1::3f"), "the own block to its end");
    let own: IpNet = "fd00:10:244:1::/122".parse().unwrap();
    let pool: IpNet = "fd00:10:244::/56".parse().unwrap();
    assert!(!own.contains(&given[64]) && pool.contains(&given[64]), "then another: {}", given[64]);
    assert_eq!(store::blocks(&api).unwrap().len(), 2);
    assert!(store::block(&api, own).unwrap().unwrap().spec.belongs_to("n1"));
    assert_eq!(ipam.auto_assign(&request("v4"), Family::V4).unwrap().prefix_len(), 32, "the families do not mix");
}
