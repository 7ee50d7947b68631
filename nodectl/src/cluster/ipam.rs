//! Calico's IPAM objects: names, blocks, affinities and handles, as libcalico writes them.
//!
//! A node's pod CIDR is claimed as whole blocks, so that Calico gives a switched node addresses of its own pod CIDR
//! only (flannel's nodes route by pod CIDR) and nobody else gets one of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::{Value, json};
use sha3::{Digest, Sha3_256};

use super::object::{Kind, ObjectRef, items, set, text, unset};

/// Type that Calico gives the address of a node's overlay device, by family.
///
/// It is also the type of the addresses that are reserved for flannel's bridge. Calico's garbage collector knows three
/// sorts of allocations: those of pods, which it frees when the pod is gone; those of tunnels, which it keeps as long
/// as the node exists and then frees with the node's blocks; and unknown ones, which it never frees and which keep it
/// from ever cleaning up after a deleted node. Only the second is right for an address that belongs to the node.
const NODE_ADDRESS: [&str; 2] = ["vxlanTunnelAddress", "vxlanV6TunnelAddress"];

/// An address that is held for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// The address.
    pub address: IpAddr,
    /// The handle that holds it.
    pub handle: String,
}

/// Handle of the address of a node's overlay device in the family of its pod CIDR, as calico-node names it.
pub fn vtep_handle(node: &str, pod_cidr: IpNet) -> String {
    match pod_cidr {
        IpNet::V4(_) => format!("vxlan-tunnel-addr-{node}"),
        IpNet::V6(_) => format!("vxlan-v6-tunnel-addr-{node}"),
    }
}

/// What the handles of our own begin with.
const BRIDGE_HANDLE: &str = "nodectl-reserved-";

/// Handle of the addresses that are kept free for flannel's bridge on a node, of both families.
pub fn bridge_handle(node: &str) -> String {
    format!("{BRIDGE_HANDLE}{node}")
}

/// Whether a handle keeps addresses free for flannel's bridge on some node.
pub fn is_bridge_handle(id: &str) -> bool {
    id.starts_with(BRIDGE_HANDLE)
}

/// The addresses of a pod CIDR that Calico must not give to pods: the overlay's, and the gateway and (IPv4) broadcast
/// address of flannel's bridge, which Calico knows nothing of and would hand out.
pub fn reservations(node: &str, pod_cidr: IpNet) -> Vec<Reservation> {
    let mut addresses = vec![Reservation { address: pod_cidr.network(), handle: vtep_handle(node, pod_cidr) }];
    let gateway = nth(pod_cidr, 1);
    let broadcast = if pod_cidr.addr().is_ipv4() { pod_cidr.broadcast() } else { gateway };
    for address in [gateway, broadcast] {
        if pod_cidr.contains(&address) && addresses.iter().all(|r| r.address != address) {
            addresses.push(Reservation { address, handle: bridge_handle(node) });
        }
    }
    addresses
}

/// The address of a network that comes so many after its first.
fn nth(network: IpNet, at: u32) -> IpAddr {
    match network.network() {
        IpAddr::V4(first) => Ipv4Addr::from(u32::from(first).saturating_add(at)).into(),
        IpAddr::V6(first) => Ipv6Addr::from(u128::from(first).saturating_add(u128::from(at))).into(),
    }
}

/// Which address of a network this is, counted from 0; `None` for one that comes before.
fn distance(network: IpNet, address: IpAddr) -> Option<u128> {
    match (network.network(), address) {
        (IpAddr::V4(first), IpAddr::V4(address)) => u32::from(address).checked_sub(u32::from(first)).map(u128::from),
        (IpAddr::V6(first), IpAddr::V6(address)) => u128::from(address).checked_sub(u128::from(first)),
        _ => None,
    }
}

/// The first blocks of a pod CIDR, at most so many: an IPv6 one has more than can be counted.
pub fn blocks(pod_cidr: IpNet, block_size: u8, most: usize) -> Vec<IpNet> {
    match pod_cidr {
        IpNet::V4(cidr) => cidr.subnets(block_size).into_iter().flatten().take(most).map(IpNet::V4).collect(),
        IpNet::V6(cidr) => cidr.subnets(block_size).into_iter().flatten().take(most).map(IpNet::V6).collect(),
    }
}

/// Name of a block.
pub fn block_ref(cidr: IpNet) -> ObjectRef {
    ObjectRef::cluster(Kind::IPAMBlock, &cidr_name(cidr))
}

/// Name of a node's affinity to a block.
pub fn affinity_ref(node: &str, cidr: IpNet) -> ObjectRef {
    ObjectRef::cluster(Kind::BlockAffinity, &format!("{node}-{}", cidr_name(cidr)))
}

/// Name of a handle.
pub fn handle_ref(handle: &str) -> ObjectRef {
    ObjectRef::cluster(Kind::IPAMHandle, &handle.to_lowercase())
}

fn cidr_name(cidr: IpNet) -> String {
    cidr.to_string().replace(['.', ':', '/'], "-")
}

/// A node's confirmed affinity to a block.
pub fn affinity(node: &str, cidr: IpNet) -> Value {
    let mut object = affinity_ref(node, cidr).skeleton();
    // Calico looks affinities up by these.
    let labels = json!({
        "projectcalico.org/affinity-type": "host",
        "projectcalico.org/hostname-hash": hostname_hash(node),
        "projectcalico.org/ip-version": if cidr.addr().is_ipv4() { "4" } else { "6" },
    });
    set(&mut object, &["metadata", "labels"], labels);
    set(&mut object, &["spec"], affinity_spec(node, cidr));
    object
}

/// What a confirmed affinity says.
pub fn affinity_spec(node: &str, cidr: IpNet) -> Value {
    json!({"cidr": cidr.to_string(), "deleted": "false", "node": node, "state": "confirmed", "type": "host"})
}

/// SHA3-256 of a node's name in base32 without padding, because names can be longer than label values.
fn hostname_hash(node: &str) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let digest = Sha3_256::digest(node.as_bytes());
    let bit = |at: usize| digest.get(at / 8).is_some_and(|byte| byte >> (7 - at % 8) & 1 == 1);
    (0..(digest.len() * 8).div_ceil(5))
        .map(|group| (0..5).fold(0usize, |value, offset| value << 1 | usize::from(bit(group * 5 + offset))))
        .map(|value| char::from(ALPHABET[value]))
        .collect()
}

/// A handle and how many addresses of which block it holds.
pub fn handle(id: &str, blocks: &BTreeMap<IpNet, u64>) -> Value {
    let mut object = handle_ref(id).skeleton();
    set(&mut object, &["spec"], handle_spec(id, blocks));
    object
}

/// What a handle says.
pub fn handle_spec(id: &str, blocks: &BTreeMap<IpNet, u64>) -> Value {
    let blocks: serde_json::Map<String, Value> = blocks.iter().map(|(b, n)| (b.to_string(), json!(n))).collect();
    json!({"block": blocks, "deleted": false, "handleID": id})
}

/// A new block of a node, with the reserved addresses that lie in it taken from the start.
pub fn new_block(node: &str, cidr: IpNet, reserved: &[Reservation], claimed_at: &str, sequence: u64) -> Value {
    let size = 1usize << (cidr.max_prefix_len() - cidr.prefix_len()).min(16);
    let mut object = block_ref(cidr).skeleton();
    let spec = json!({
        "affinity": affinity_text(node),
        "affinityClaimTime": claimed_at,
        "allocations": vec![Value::Null; size],
        "attributes": [],
        "cidr": cidr.to_string(),
        "deleted": false,
        "sequenceNumber": sequence,
        "sequenceNumberForAllocation": {},
        "strictAffinity": false,
        "unallocated": (0..size).collect::<Vec<_>>(),
    });
    set(&mut object, &["spec"], spec);
    for reservation in reserved.iter().filter(|r| cidr.contains(&r.address)) {
        take(&mut object, node, reservation);
    }
    object
}

/// How a block names the node that it belongs to.
pub fn affinity_text(node: &str) -> String {
    format!("host:{node}")
}

/// The node that a block belongs to.
pub fn block_node(block: &Value) -> Option<&str> {
    text(block, "/spec/affinity")?.strip_prefix("host:")
}

/// The network of a block.
pub fn block_cidr(block: &Value) -> Option<IpNet> {
    text(block, "/spec/cidr")?.parse().ok()
}

/// Marked as deleted: Calico treats the object as absent until the server has removed it.
pub fn is_deleted(object: &Value) -> bool {
    match object.pointer("/spec/deleted") {
        Some(Value::Bool(deleted)) => *deleted,
        Some(Value::String(deleted)) => deleted == "true",
        _ => false,
    }
}

/// Any address of the block is in use.
pub fn has_allocations(block: &Value) -> bool {
    items(block, "/spec/allocations").iter().any(|a| !a.is_null())
}

/// The handle that holds an address: `None` where nobody does, an empty text where it has no handle.
pub fn holder(block: &Value, address: IpAddr) -> Option<String> {
    let attribute = items(block, "/spec/allocations").get(ordinal(block, address)?)?.as_u64()?;
    let attributes = items(block, "/spec/attributes");
    let attribute = attributes.get(usize::try_from(attribute).ok()?);
    Some(attribute.and_then(|a| text(a, "/handle_id")).unwrap_or_default().to_owned())
}

/// Every address in use, and the handle that holds it.
pub fn held(block: &Value) -> Vec<(IpAddr, String)> {
    let Some(cidr) = block_cidr(block) else { return Vec::new() };
    let slots = (0..items(block, "/spec/allocations").len()).filter_map(|at| u32::try_from(at).ok());
    slots.map(|at| nth(cidr, at)).filter_map(|address| Some((address, holder(block, address)?))).collect()
}

fn ordinal(block: &Value, address: IpAddr) -> Option<usize> {
    usize::try_from(distance(block_cidr(block)?, address)?).ok()
}

/// The block with reserved addresses taken, those that are held already left as they are.
pub fn reserve(block: &Value, node: &str, reserved: &[Reservation]) -> Value {
    let mut changed = block.clone();
    let mut any = false;
    for reservation in reserved {
        let lies_here = block_cidr(block).is_some_and(|cidr| cidr.contains(&reservation.address));
        if lies_here && holder(block, reservation.address).is_none() {
            take(&mut changed, node, reservation);
            any = true;
        }
    }
    if any {
        bump_sequence(&mut changed);
    }
    changed
}

/// Takes one free address of a block.
fn take(block: &mut Value, node: &str, reservation: &Reservation) {
    let Some(ordinal) = ordinal(block, reservation.address) else { return };
    let kind = NODE_ADDRESS[usize::from(reservation.address.is_ipv6())];
    let attribute = json!({"handle_id": reservation.handle, "secondary": {"node": node, "type": kind}});
    let mut attributes = items(block, "/spec/attributes").to_vec();
    let index = attributes.iter().position(|a| *a == attribute).unwrap_or_else(|| {
        attributes.push(attribute);
        attributes.len() - 1
    });
    let mut allocations = items(block, "/spec/allocations").to_vec();
    if let Some(slot) = allocations.get_mut(ordinal) {
        *slot = json!(index);
    }
    let free = items(block, "/spec/unallocated").iter().filter(|o| o.as_u64() != Some(ordinal as u64)).cloned();
    let free: Vec<Value> = free.collect();
    let sequence = sequence(block);
    set(block, &["spec", "attributes"], Value::Array(attributes));
    set(block, &["spec", "allocations"], Value::Array(allocations));
    set(block, &["spec", "unallocated"], Value::Array(free));
    set(block, &["spec", "sequenceNumberForAllocation", &ordinal.to_string()], json!(sequence));
}

/// The block without the addresses that a handle holds. They go to the end of the queue of free ones, as Calico does
/// it, so that they are the last to be given out again.
pub fn release(block: &Value, handle: &str) -> Value {
    let attributes = items(block, "/spec/attributes");
    let Some(gone) = attributes.iter().position(|a| text(a, "/handle_id") == Some(handle)) else {
        return block.clone();
    };
    let gone = gone as u64;
    let mut changed = block.clone();
    let mut free = items(block, "/spec/unallocated").to_vec();
    let mut allocations = items(block, "/spec/allocations").to_vec();
    for (ordinal, slot) in allocations.iter_mut().enumerate() {
        match slot.as_u64() {
            Some(index) if index == gone => {
                *slot = Value::Null;
                free.push(json!(ordinal));
                unset(&mut changed, &["spec", "sequenceNumberForAllocation", &ordinal.to_string()]);
            }
            // Allocations point into the list of attributes, which becomes shorter by one.
            Some(index) if index > gone => *slot = json!(index - 1),
            _ => {}
        }
    }
    let kept = attributes.iter().enumerate().filter(|(at, _)| *at as u64 != gone).map(|(_, a)| a.clone());
    set(&mut changed, &["spec", "attributes"], kept.collect());
    set(&mut changed, &["spec", "allocations"], Value::Array(allocations));
    set(&mut changed, &["spec", "unallocated"], Value::Array(free));
    bump_sequence(&mut changed);
    // The same handle may stand there again, with other attributes.
    release(&changed, handle)
}

/// Every handle that holds an address of the block.
pub fn handles(block: &Value) -> Vec<String> {
    items(block, "/spec/attributes").iter().filter_map(|a| text(a, "/handle_id").map(str::to_owned)).collect()
}

fn sequence(block: &Value) -> u64 {
    block.pointer("/spec/sequenceNumber").and_then(Value::as_u64).unwrap_or(0)
}

/// Calico tells by this number whether an address has changed hands since it looked.
fn bump_sequence(block: &mut Value) {
    let next = sequence(block).saturating_add(1);
    set(block, &["spec", "sequenceNumber"], json!(next));
}
