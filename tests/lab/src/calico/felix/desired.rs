//! What the kernel should look like, given what was read. Pure.

use anyhow::{Context, Result};
use ipnet::IpNet;
use serde_json::Value;
use sha1::{Digest, Sha1};

use crate::agent::family::Family;
use crate::agent::links::{self, Vxlan};
use crate::calico::endpoint::Endpoint;
use crate::calico::ipam::store::Pool;

use super::datastore::{Config, Datastore};
use super::options::Options;

/// The tunnel device's name.
pub fn device_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "vxlan.calico",
        Family::V6 => "vxlan-v6.calico",
    }
}

/// The tunnel end of another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vtep {
    /// The node.
    pub node: String,
    /// Inner address.
    pub tunnel: String,
    /// MAC.
    pub mac: String,
    /// Outer address.
    pub address: String,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Through the tunnel to a node.
    Tunnel(String),
    /// To a pod on this interface.
    Pod(String),
    /// Nowhere: an address of this node's blocks that no pod has.
    Blackhole,
}

/// A route that felix wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub destination: IpNet,
    /// Metric.
    pub metric: u64,
    /// Where it leads.
    pub target: Target,
}

/// Everything felix wants in one family.
#[derive(Debug, Clone)]
pub struct Desired {
    /// The family.
    pub family: Family,
    /// The tunnel device and its address, if there is to be one and it is known what it should be.
    pub vxlan: Option<(Vxlan, String)>,
    /// Why it is not known, if it is not.
    pub unknown_device: Option<String>,
    /// The other nodes' tunnel ends.
    pub vteps: Vec<Vtep>,
    /// All routes.
    pub routes: Vec<Route>,
    /// This node's endpoints, whatever addresses they have.
    pub endpoints: Vec<Endpoint>,
    /// Pools of the family.
    pub pools: Vec<Pool>,
    /// Addresses of all nodes.
    pub hosts: Vec<String>,
    /// This node's address.
    pub own_address: Option<String>,
    /// The configuration.
    pub config: Config,
    /// True if VXLAN is on at all, whatever became of the device.
    pub vxlan_on: bool,
}

impl Desired {
    /// Computes it all. A tunnel device that cannot be described yet does not hold up the rest.
    pub fn compute(read: &Datastore, node: &str, options: &Options, links: &[Value], family: Family) -> Desired {
        let pools: Vec<Pool> = read.pools.iter().filter(|pool| pool.family() == family).cloned().collect();
        let by_pools = pools.iter().any(|pool| pool.vxlan_mode != "Never");
        // The switch is one for both families; of IPv6, it cannot make anything where no pool has it.
        let vxlan_on = read.config.vxlan_enabled.unwrap_or(by_pools) && (family == Family::V4 || by_pools);
        let vteps = if vxlan_on { vteps(read, node, family) } else { Vec::new() };
        // The part of felix that manages the tunnel makes the blackholes too.
        let mut routes = if vxlan_on { blackholes(read, node, family) } else { Vec::new() };
        routes.extend(tunnel_routes(read, node, &vteps, family));
        routes.extend(read.endpoints.iter().flat_map(|endpoint| pod_routes(endpoint, options, family)));
        let (vxlan, unknown_device) = match vxlan_on.then(|| device(read, node, links, family)).transpose() {
            Ok(device) => (device, None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        Desired {
            family,
            vxlan,
            unknown_device,
            vteps,
            routes,
            endpoints: read.endpoints.clone(),
            pools,
            hosts: read.hosts.iter().filter_map(|host| host.end(family).address.clone()).collect(),
            own_address: read.host(node).and_then(|host| host.end(family).address.clone()),
            config: read.config.clone(),
            vxlan_on,
        }
    }

    /// The tunnel's MTU, which is also what pods get.
    pub fn mtu(&self) -> Option<u64> {
        self.vxlan.as_ref().map(|(device, _)| device.mtu)
    }
}

/// The MAC of a node that has none annotated: 66 and the first five bytes of the SHA-1 of its name, which has "-v6" after it for IPv6.
pub fn computed_mac(node: &str, family: Family) -> String {
    let digest = match family {
        Family::V4 => Sha1::digest(node),
        Family::V6 => Sha1::digest(format!("{node}-v6")),
    };
    let rest: Vec<String> = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    format!("66:{}", rest.join(":"))
}

/// A node is a tunnel end only if address and tunnel address are annotated; whether Calico runs there does not matter.
fn vteps(read: &Datastore, node: &str, family: Family) -> Vec<Vtep> {
    let others = read.hosts.iter().filter(|host| host.name != node);
    others
        .filter_map(|host| {
            let end = host.end(family);
            Some(Vtep {
                node: host.name.clone(),
                tunnel: end.tunnel.clone()?,
                mac: end.mac.clone().unwrap_or_else(|| computed_mac(&host.name, family)),
                address: end.address.clone()?,
            })
        })
        .collect()
}

/// This node's device: on the interface that holds the annotated address.
fn device(read: &Datastore, node: &str, links: &[Value], family: Family) -> Result<(Vxlan, String)> {
    let host = read.host(node).with_context(|| format!("the Node {node} is not in the datastore"))?.end(family);
    let address = host.address.as_deref().with_context(|| format!("local node's {family} address is not known yet"))?;
    let tunnel = host.tunnel.as_deref().context("Missing local VTEP info")?;
    let (parent, _) = links::holder_of(links, address)
        .with_context(|| format!("unable to find parent interface with address {address}"))?;
    let below = links::by_name(links, parent).and_then(|link| link["mtu"].as_u64()).unwrap_or(1500);
    let mac = host.mac.clone().unwrap_or_else(|| computed_mac(node, family));
    let config = &read.config;
    let mtu = match family {
        Family::V4 => config.mtu.unwrap_or(below.saturating_sub(50)),
        Family::V6 => config.mtu_v6.unwrap_or(below.saturating_sub(70)),
    };
    let device = Vxlan::new(device_name(family), config.vni, config.port, address, parent, &mac, mtu);
    Ok((device, format!("{tunnel}/{}", family.bits())))
}

/// A blackhole for each block of this node that is more than one address.
fn blackholes(read: &Datastore, node: &str, family: Family) -> Vec<Route> {
    let own = read
        .blocks
        .iter()
        .filter(|block| family.holds(&block.cidr) && block.belongs_to(node) && block.cidr.prefix_len() < family.bits());
    own.map(|block| Route { destination: block.cidr, metric: metric(family), target: Target::Blackhole }).collect()
}

/// The metric of routes that belong to no pod: what the kernel makes of 0.
fn metric(family: Family) -> u64 {
    if family == Family::V6 { 1024 } else { 0 }
}

/// Blocks of the other tunnel ends, and single addresses that a node has borrowed from another's block.
fn tunnel_routes(read: &Datastore, node: &str, vteps: &[Vtep], family: Family) -> Vec<Route> {
    let metric = metric(family);
    let via = |host: &str| vteps.iter().find(|vtep| vtep.node == host).map(|vtep| Target::Tunnel(vtep.tunnel.clone()));
    let mut routes = Vec::new();
    for block in read.blocks.iter().filter(|block| family.holds(&block.cidr)) {
        if let Some(target) = block.host().filter(|host| *host != node).and_then(via) {
            routes.push(Route { destination: block.cidr, metric, target });
        }
        for (address, holder) in block.assigned() {
            let user = holder.get("node");
            let borrowed = !user.is_empty() && block.host() != Some(user) && user != node;
            if borrowed && let Some(target) = via(user) {
                routes.push(Route { destination: IpNet::from(address), metric, target });
            }
        }
    }
    routes
}

fn pod_routes(endpoint: &Endpoint, options: &Options, family: Family) -> Vec<Route> {
    let route = |address: &std::net::IpAddr| Route {
        destination: IpNet::from(*address),
        metric: options.route_metric(family),
        target: Target::Pod(endpoint.interface.clone()),
    };
    endpoint.addresses.iter().filter(|address| Family::of(**address) == family).map(route).collect()
}
