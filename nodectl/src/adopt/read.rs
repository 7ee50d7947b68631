//! Looking at a pod's network, and why a pod cannot be re-plumbed.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::host_side::calico_sysctls;
use super::pod::PodNetwork;
use crate::facts::{Link, Network, Rule};
use crate::host::{netlink, netns, sysctl};

/// rtm_protocol of routes that the kernel makes with an address.
const KERNEL: u8 = 2;

/// What a pod looks like from inside and outside, before it is judged.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Everything in its namespace.
    pub inside: Network,
    /// Indexes of its links.
    pub indexes: BTreeMap<u32, Link>,
    /// Its `net.ipv4.conf.all.rp_filter`.
    pub rp_filter: String,
    /// The host's links by index.
    pub outside: BTreeMap<u32, Link>,
}

/// Reads a pod's network and judges it: what re-plumbing must know, or why it cannot be done, in a sentence.
pub fn read(pod: &str, netns: &Path, ifname: &str) -> Result<Result<PodNetwork, String>> {
    let context = || format!("could not look at the network of {pod}");
    let inside = netns::enter(netns, || -> Result<(Network, BTreeMap<u32, Link>, String)> {
        let rp_filter = sysctl::read("net.ipv4.conf.all.rp_filter")?.unwrap_or_default();
        Ok((netlink::observe()?, netlink::indexed_links()?, rp_filter))
    });
    let (inside, indexes, rp_filter) = inside.and_then(|seen| seen).with_context(context)?;
    let seen = Seen { inside, indexes, rp_filter, outside: netlink::indexed_links()? };
    let mut judged = judge(pod, ifname, &seen);
    if let Ok(network) = &mut judged {
        network.hairpin = netlink::hairpin(&network.host)?.unwrap_or(false);
        for (name, _) in calico_sysctls(&network.host, network.has_ipv6()) {
            if let Some(value) = sysctl::read(&name)? {
                network.sysctls.insert(name, value);
            }
        }
    }
    Ok(judged)
}

/// What the parameters that Calico changes would be on a device of this name that was made now.
pub fn fresh_sysctls(device: &str) -> Result<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    for ((name, _), (usual, _)) in calico_sysctls(device, true).into_iter().zip(calico_sysctls("default", true)) {
        // The bridge plugin sets this one itself, to what Calico has it at.
        if name.ends_with(".accept_ra") {
            continue;
        }
        if let Some(value) = sysctl::read(&usual)? {
            values.insert(name, value);
        }
    }
    Ok(values)
}

/// Pure: what was seen, as re-plumbing needs it; or why it cannot be done.
pub fn judge(pod: &str, ifname: &str, seen: &Seen) -> Result<PodNetwork, String> {
    let others: Vec<&str> =
        seen.inside.links.iter().map(|l| l.name.as_str()).filter(|name| *name != "lo" && *name != ifname).collect();
    // Fallback devices of modules appear in every namespace and are down.
    let others: Vec<&str> = others.into_iter().filter(|name| seen.inside.link(name).is_some_and(|l| l.up)).collect();
    if !others.is_empty() {
        return Err(format!("it has more interfaces than {ifname}: {}", others.join(", ")));
    }
    let own = seen.indexes.iter().find(|(_, link)| link.name == ifname);
    let (index, link) = own.ok_or_else(|| format!("it has no interface {ifname}"))?;
    // The other end's index is one in the namespace where that end is, so both must name each other.
    let other = link.peer_index.and_then(|peer| seen.outside.get(&peer)).filter(|o| o.peer_index == Some(*index));
    let other = other.ok_or_else(|| format!("the other end of its {ifname} is not on this host"))?;
    let addresses: Vec<IpNet> = seen
        .inside
        .addresses
        .iter()
        .filter(|a| a.link == ifname && !is_link_local(&a.address))
        .map(|a| a.address)
        .collect();
    for v4 in [true, false] {
        let of_family: Vec<String> =
            addresses.iter().filter(|a| a.addr().is_ipv4() == v4).map(ToString::to_string).collect();
        if of_family.len() > 1 {
            return Err(format!("it has several addresses on {ifname}: {}", of_family.join(", ")));
        }
    }
    if !addresses.iter().any(|a| a.addr().is_ipv4()) {
        return Err(format!("it has no IPv4 address on {ifname}"));
    }
    // Whatever they choose another table by, re-plumbing changes the main one alone.
    if let Some(rule) = seen.inside.rules.iter().find(|rule| !is_usual(rule)) {
        return Err(format!("it has a routing rule of its own, of priority {}", rule.priority));
    }
    let over = |route: &&crate::facts::Route| route.dev.as_deref() == Some(ifname) && route.proto != KERNEL;
    Ok(PodNetwork {
        pod: pod.to_owned(),
        ifname: ifname.to_owned(),
        mac: link.mac.clone(),
        mtu: link.mtu,
        host: other.name.clone(),
        host_mac: other.mac.clone(),
        bridge: other.master.clone(),
        hairpin: false,
        addresses,
        routes: seen.inside.routes.iter().filter(over).cloned().collect(),
        sysctls: BTreeMap::new(),
        rp_filter: seen.rp_filter.clone(),
    })
}

/// The rules that each namespace begins with: local, main and default.
fn is_usual(rule: &Rule) -> bool {
    matches!((rule.priority, rule.table), (0, 255) | (32766, 254) | (32767, 253)) && !rule.selective && !rule.invert
}

fn is_link_local(address: &IpNet) -> bool {
    matches!(address, IpNet::V6(v6) if v6.addr().is_unicast_link_local())
}
