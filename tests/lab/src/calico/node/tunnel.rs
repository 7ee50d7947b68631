//! The node's VXLAN tunnel addresses, one for each family: kept if IPAM agrees with the annotation, replaced without asking if not.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::agent::api::{Api, annotation};
use crate::agent::family::Family;
use crate::calico::ipam::store::{self, Pool};
use crate::calico::ipam::{Ipam, Request, Use};

use super::log;

/// The Node annotation with the tunnel's address.
pub fn tunnel_address(family: Family) -> &'static str {
    match family {
        Family::V4 => "projectcalico.org/IPv4VXLANTunnelAddr",
        Family::V6 => "projectcalico.org/IPv6VXLANTunnelAddr",
    }
}

/// The IPAM handle of a node's tunnel address, and the type that its attributes say.
fn in_ipam(family: Family, node: &str) -> (String, &'static str) {
    match family {
        Family::V4 => (format!("vxlan-tunnel-addr-{node}"), "vxlanTunnelAddress"),
        Family::V6 => (format!("vxlan-v6-tunnel-addr-{node}"), "vxlanV6TunnelAddress"),
    }
}

/// Checks the annotated addresses of both families.
pub fn ensure_all(api: &dyn Api, node: &str) -> Result<()> {
    Family::BOTH.into_iter().try_for_each(|family| ensure(api, node, family))
}

/// Checks the annotated address; assigns another one where IPAM does not hold it for this node's tunnel.
fn ensure(api: &dyn Api, node: &str, family: Family) -> Result<()> {
    let wanted = |pool: &Pool| pool.family() == family && !pool.disabled && pool.vxlan_mode != "Never";
    let pools: Vec<Pool> = store::pools(api)?.into_iter().filter(wanted).collect();
    let object = api.get(&format!("/api/v1/nodes/{node}"))?;
    let known = annotation(&object, tunnel_address(family)).filter(|address| !address.is_empty());
    let (handle, kind) = in_ipam(family, node);
    let ipam = Ipam::new(api, node);
    if pools.is_empty() {
        if known.is_some() {
            ipam.release_by_handle(&handle)?;
            write(api, node, family, Value::Null)?;
        }
        return Ok(());
    }
    if let Some(known) = known.and_then(|known| known.parse::<IpAddr>().ok()) {
        let in_pool = pools.iter().any(|pool| pool.cidr.contains(&known));
        let held =
            ipam.attribute_of(known)?.is_some_and(|holder| holder.get("type") == kind && holder.get("node") == node);
        if in_pool && held {
            return Ok(());
        }
        log(&format!(
            "Current tunnel address {known} is not (or no longer) assigned to this node; assigning another one"
        ));
    }
    ipam.release_by_handle(&handle)?;
    let attributes = BTreeMap::from([("node".to_owned(), node.to_owned()), ("type".to_owned(), kind.to_owned())]);
    let address = ipam.auto_assign(&Request { handle, attributes, intended: Use::Tunnel }, family)?.addr();
    log(&format!("Assigned tunnel address {address}"));
    write(api, node, family, json!(address.to_string()))
}

fn write(api: &dyn Api, node: &str, family: Family, address: Value) -> Result<()> {
    let patch = json!({"metadata": {"annotations": {tunnel_address(family): address}}});
    api.patch(&format!("/api/v1/nodes/{node}/status"), &patch)
        .with_context(|| format!("the tunnel address of Node {node} could not be written"))
        .map(|_| ())
}
