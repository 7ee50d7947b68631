//! What felix reads from the API server.

use anyhow::Result;
use serde_json::Value;

use crate::agent::api::{self, Answer, Api, annotation};
use crate::agent::family::Family;
use crate::calico::endpoint::{self, Endpoint};
use crate::calico::ipam::block::BlockSpec;
use crate::calico::ipam::store::{self, GROUP, Pool};
use crate::calico::node::{startup::node_address, tunnel::tunnel_address};

use super::options::Options;

/// FelixConfiguration, the node's own over the default one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// An explicit value overrides what follows from the pools.
    pub vxlan_enabled: Option<bool>,
    /// VXLAN network identifier.
    pub vni: u64,
    /// UDP port.
    pub port: u64,
    /// MTU of the tunnel; the host's less 50 if it is not set.
    pub mtu: Option<u64>,
    /// MTU of the IPv6 tunnel; the host's less 70 if it is not set.
    pub mtu_v6: Option<u64>,
    /// Unwanted routes on cali interfaces are deleted.
    pub remove_external_routes: bool,
    /// ACCEPT, DROP or RETURN.
    pub endpoint_to_host: String,
    /// Further sources that may send VXLAN.
    pub external_nodes: Vec<String>,
}

/// A node as felix sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its IPv4 side.
    pub v4: End,
    /// Its IPv6 side.
    pub v6: End,
}

/// A node in one family.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct End {
    /// Its address, without length.
    pub address: Option<String>,
    /// Its tunnel address.
    pub tunnel: Option<String>,
    /// Its tunnel MAC, if annotated.
    pub mac: Option<String>,
}

impl Host {
    /// Its side of a family.
    pub fn end(&self, family: Family) -> &End {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

/// Everything that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datastore {
    /// The configuration.
    pub config: Config,
    /// All pools.
    pub pools: Vec<Pool>,
    /// All blocks.
    pub blocks: Vec<BlockSpec>,
    /// All nodes.
    pub hosts: Vec<Host>,
    /// The endpoints of this node.
    pub endpoints: Vec<Endpoint>,
}

impl Datastore {
    /// Reads everything; one failure fails the whole, since half a picture would delete what the other half holds.
    pub fn read(api: &dyn Api, node: &str, options: &Options) -> Result<Datastore> {
        Ok(Datastore {
            config: config(api, node, options)?,
            pools: store::pools(api)?,
            blocks: store::blocks(api)?.into_iter().map(|stored| stored.spec).collect(),
            hosts: api.list("/api/v1/nodes")?.iter().map(host).collect(),
            endpoints: endpoints(api, node)?,
        })
    }

    /// Reads this node's pods again; true if an endpoint came, went or changed.
    pub fn refresh_pods(&mut self, api: &dyn Api, node: &str) -> Answer<bool> {
        let now = endpoints(api, node)?;
        let changed = now != self.endpoints;
        self.endpoints = now;
        Ok(changed)
    }

    /// The node of that name.
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == name)
    }
}

fn endpoints(api: &dyn Api, node: &str) -> Answer<Vec<Endpoint>> {
    let pods = api.list(&format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}"))?;
    let mut endpoints: Vec<Endpoint> =
        pods.iter().filter_map(endpoint::from_pod).filter(|endpoint| endpoint.node == node).collect();
    endpoints.sort();
    Ok(endpoints)
}

fn host(node: &Value) -> Host {
    let value = |key: &str| annotation(node, key).filter(|value| !value.is_empty()).map(str::to_owned);
    let end = |family: Family, mac: &str| End {
        address: value(node_address(family)).and_then(|address| address.split('/').next().map(str::to_owned)),
        tunnel: value(tunnel_address(family)),
        mac: value(mac).map(|mac| mac.to_lowercase()),
    };
    Host {
        name: api::name(node).to_owned(),
        v4: end(Family::V4, "projectcalico.org/VXLANTunnelMACAddr"),
        v6: end(Family::V6, "projectcalico.org/VXLANTunnelMACAddrV6"),
    }
}

fn config(api: &dyn Api, node: &str, options: &Options) -> Result<Config> {
    let default = api.find(&format!("{GROUP}/felixconfigurations/default"))?.unwrap_or_default();
    let own = api.find(&format!("{GROUP}/felixconfigurations/node.{node}"))?.unwrap_or_default();
    let value = |key: &str| match &own["spec"][key] {
        Value::Null => default["spec"][key].clone(),
        own => own.clone(),
    };
    let action = options
        .endpoint_to_host
        .clone()
        .or_else(|| value("defaultEndpointToHostAction").as_str().map(str::to_uppercase));
    let external = value("externalNodesList");
    Ok(Config {
        vxlan_enabled: options.vxlan_enabled.or_else(|| value("vxlanEnabled").as_bool()),
        vni: value("vxlanVNI").as_u64().unwrap_or(4096),
        port: value("vxlanPort").as_u64().unwrap_or(4789),
        mtu: value("vxlanMTU").as_u64().filter(|mtu| *mtu != 0),
        mtu_v6: value("vxlanMTUV6").as_u64().filter(|mtu| *mtu != 0),
        remove_external_routes: value("removeExternalRoutes").as_bool().unwrap_or(true),
        endpoint_to_host: action.unwrap_or_else(|| "ACCEPT".to_owned()),
        external_nodes: external
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
    })
}
