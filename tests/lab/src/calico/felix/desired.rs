//! What the kernel should look like, given what was read. Pure.

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use serde_json::Value;
use sha1::{Digest, Sha1};

use crate::agent::links::{self, Vxlan};
use crate::calico::endpoint::Endpoint;
use crate::calico::ipam::store::Pool;

use super::datastore::{Config, Datastore};
use super::options::Options;

/// The tunnel device's name.
pub const DEVICE: &str = "vxlan.calico";

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
    pub destination: Ipv4Net,
    /// Metric.
    pub metric: u64,
    /// Where it leads.
    pub target: Target,
}

/// Everything felix wants.
#[derive(Debug, Clone)]
pub struct Desired {
    /// The tunnel device and its address, if there is to be one and it is known what it should be.
    pub vxlan: Option<(Vxlan, String)>,
    /// Why it is not known, if it is not.
    pub unknown_device: Option<String>,
    /// The other nodes' tunnel ends.
    pub vteps: Vec<Vtep>,
    /// All routes.
    pub routes: Vec<Route>,
    /// This node's endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Pools.
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
    pub fn compute(read: &Datastore, node: &str, options: &Options, links: &[Value]) -> Desired {
        let by_pools = read.pools.iter().any(|pool| pool.vxlan_mode != "Never");
        let vxlan_on = read.config.vxlan_enabled.unwrap_or(by_pools);
        let vteps = if vxlan_on { vteps(read, node) } else { Vec::new() };
        let mut routes = blackholes(read, node);
        routes.extend(tunnel_routes(read, node, &vteps));
        routes.extend(read.endpoints.iter().flat_map(|endpoint| pod_routes(endpoint, options)));
        let (vxlan, unknown_device) = match vxlan_on.then(|| device(read, node, links)).transpose() {
            Ok(device) => (device, None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        Desired {
            vxlan,
            unknown_device,
            vteps,
            routes,
            endpoints: read.endpoints.clone(),
            pools: read.pools.clone(),
            hosts: read.hosts.iter().filter_map(|host| host.address.clone()).collect(),
            own_address: read.host(node).and_then(|host| host.address.clone()),
            config: read.config.clone(),
            vxlan_on,
        }
    }

    /// The tunnel's MTU, which is also what pods get.
    pub fn mtu(&self) -> Option<u64> {
        self.vxlan.as_ref().map(|(device, _)| device.mtu)
    }
}

/// The MAC of a node that has none annotated: 66 and the first five bytes of the name's SHA-1.
pub fn computed_mac(node: &str) -> String {
    let digest = Sha1::digest(node);
    let rest: Vec<String> = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    format!("66:{}", rest.join(":"))
}

/// A node is a tunnel end only if address and tunnel address are annotated; whether Calico runs there does not matter.
fn vteps(read: &Datastore, node: &str) -> Vec<Vtep> {
    let others = read.hosts.iter().filter(|host| host.name != node);
    others
        .filter_map(|host| {
            Some(Vtep {
                node: host.name.clone(),
                tunnel: host.tunnel.clone()?,
                mac: host.mac.clone().unwrap_or_else(|| computed_mac(&host.name)),
                address: host.address.clone()?,
            })
        })
        .collect()
}

/// This node's device: on the interface that holds the annotated address.
fn device(read: &Datastore, node: &str, links: &[Value]) -> Result<(Vxlan, String)> {
    let host = read.host(node).with_context(|| format!("the Node {node} is not in the datastore"))?;
    let address = host.address.as_deref().context("local node's IPv4 address is not known yet")?;
    let tunnel = host.tunnel.as_deref().context("Missing local VTEP info")?;
    let (parent, _) = links::holder_of(links, address)
        .with_context(|| format!("unable to find parent interface with address {address}"))?;
    let below = links::by_name(links, parent).and_then(|link| link["mtu"].as_u64()).unwrap_or(1500);
    let mac = host.mac.clone().unwrap_or_else(|| computed_mac(node));
    let config = &read.config;
    let mtu = config.mtu.unwrap_or(below.saturating_sub(50));
    Ok((Vxlan::new(DEVICE, config.vni, config.port, address, parent, &mac, mtu), format!("{tunnel}/32")))
}

/// A blackhole for each block of this node that is more than one address.
fn blackholes(read: &Datastore, node: &str) -> Vec<Route> {
    let own = read.blocks.iter().filter(|block| block.belongs_to(node) && block.cidr.prefix_len() < 32);
    own.map(|block| Route { destination: block.cidr, metric: 0, target: Target::Blackhole }).collect()
}

/// Blocks of the other tunnel ends, and single addresses that a node has borrowed from another's block.
fn tunnel_routes(read: &Datastore, node: &str, vteps: &[Vtep]) -> Vec<Route> {
    let via = |host: &str| vteps.iter().find(|vtep| vtep.node == host).map(|vtep| Target::Tunnel(vtep.tunnel.clone()));
    let mut routes = Vec::new();
    for block in &read.blocks {
        if let Some(target) = block.host().filter(|host| *host != node).and_then(via) {
            routes.push(Route { destination: block.cidr, metric: 0, target });
        }
        for (address, holder) in block.assigned() {
            let user = holder.get("node");
            let borrowed = !user.is_empty() && block.host() != Some(user) && user != node;
            if borrowed && let Some(target) = via(user) {
                routes.push(Route { destination: Ipv4Net::from(address), metric: 0, target });
            }
        }
    }
    routes
}

fn pod_routes(endpoint: &Endpoint, options: &Options) -> Vec<Route> {
    let route = |address: &std::net::Ipv4Addr| Route {
        destination: Ipv4Net::from(*address),
        metric: options.route_metric(),
        target: Target::Pod(endpoint.interface.clone()),
    };
    endpoint.addresses.iter().map(route).collect()
}
