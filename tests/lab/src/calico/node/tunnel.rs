//! The node's VXLAN tunnel address: kept if IPAM agrees with the annotation, replaced without asking if not.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::agent::api::{Api, annotation};
use crate::calico::ipam::store::{self, Pool};
use crate::calico::ipam::{Ipam, Request, Use};

use super::log;

/// The Node annotation with the tunnel's address.
pub const TUNNEL_ADDRESS: &str = "projectcalico.org/IPv4VXLANTunnelAddr";

/// Checks the annotated address; assigns another one where IPAM does not hold it for this node's tunnel.
pub fn ensure(api: &dyn Api, node: &str) -> Result<()> {
    let pools: Vec<Pool> =
        store::pools(api)?.into_iter().filter(|pool| !pool.disabled && pool.vxlan_mode != "Never").collect();
    let object = api.get(&format!("/api/v1/nodes/{node}"))?;
    let known = annotation(&object, TUNNEL_ADDRESS).filter(|address| !address.is_empty());
    let handle = format!("vxlan-tunnel-addr-{node}");
    let ipam = Ipam::new(api, node);
    if pools.is_empty() {
        if known.is_some() {
            ipam.release_by_handle(&handle)?;
            write(api, node, Value::Null)?;
        }
        return Ok(());
    }
    if let Some(known) = known.and_then(|known| known.parse::<std::net::Ipv4Addr>().ok()) {
        let in_pool = pools.iter().any(|pool| pool.cidr.contains(&known));
        let held = ipam
            .attribute_of(known)?
            .is_some_and(|holder| holder.get("type") == "vxlanTunnelAddress" && holder.get("node") == node);
        if in_pool && held {
            return Ok(());
        }
        log(&format!(
            "Current tunnel address {known} is not (or no longer) assigned to this node; assigning another one"
        ));
    }
    ipam.release_by_handle(&handle)?;
    let attributes =
        BTreeMap::from([("node".to_owned(), node.to_owned()), ("type".to_owned(), "vxlanTunnelAddress".to_owned())]);
    let address = ipam.auto_assign(&Request { handle, attributes, intended: Use::Tunnel })?.addr();
    log(&format!("Assigned tunnel address {address}"));
    write(api, node, json!(address.to_string()))
}

fn write(api: &dyn Api, node: &str, address: Value) -> Result<()> {
    let patch = json!({"metadata": {"annotations": {TUNNEL_ADDRESS: address}}});
    api.patch(&format!("/api/v1/nodes/{node}/status"), &patch)
        .with_context(|| format!("the tunnel address of Node {node} could not be written"))
        .map(|_| ())
}
