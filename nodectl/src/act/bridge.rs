//! flannel's bridge, while pods are led around it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use ipnet::IpNet;
use serde_json::Value;

use crate::adopt::{At, carry_out, to_calico};
use crate::facts::{Address, Link};
use crate::host::netlink::{self, LinkChange};
use crate::host::sysctl;
use crate::step::Before;

/// The MAC of a bridge that we make: locally administered. It must not follow its ports'.
const MAC: &str = "0e:6e:6f:64:65:01";

fn link(bridge: &str) -> Result<Option<Link>> {
    Ok(netlink::links()?.into_iter().find(|link| link.name == bridge))
}

/// The operations that make the bridge ready; none where it has gone.
fn ready(bridge: &str) -> Result<Vec<At>> {
    Ok(link(bridge)?.map(|link| to_calico::bridge(&link)).unwrap_or_default())
}

/// Those parameters of the bridge that are changed, as they are; none where there is no bridge.
pub(super) fn before(bridge: &str) -> Result<Before> {
    let mut values = BTreeMap::new();
    for name in ready(bridge)?.iter().filter_map(At::sysctl) {
        if let Some(value) = sysctl::read(name)? {
            values.insert(name.to_owned(), value);
        }
    }
    Ok(Before::Sysctls { values })
}

/// Makes it ready for pods that leave it.
pub(super) fn prepare(bridge: &str) -> Result<Value> {
    carry_out(&ready(bridge)?, Path::new("/"), &mut |_| ()).map(|()| Value::Null)
}

/// Gives it its parameters back.
pub(super) fn undo(before: &Before) -> Result<()> {
    let Before::Sysctls { values } = before else { return Ok(()) };
    // A parameter whose device has gone is gone with it.
    let mut there = values.iter().filter(|(name, _)| sysctl::read(name).is_ok_and(|value| value.is_some()));
    there.try_for_each(|(name, value)| sysctl::ensure(name, value).map(drop))
}

/// Makes it as the bridge plugin would for its first pod, and ready for pods that join it.
pub(super) fn make(bridge: &str, address: IpNet, mtu: u32) -> Result<Value> {
    if link(bridge)?.is_none() {
        let kind = "bridge".to_owned();
        netlink::add_bridge(&Link { name: bridge.into(), kind, mac: MAC.into(), mtu, up: true, ..Link::default() })?;
    }
    netlink::add_address(&Address { link: bridge.into(), address })?;
    netlink::set_link(bridge, &LinkChange { up: true, ..LinkChange::default() })?;
    prepare(bridge)
}

/// Takes it away where it was not there; where it was, it gets its parameters back.
pub(super) fn undo_make(bridge: &str, before: &Before) -> Result<()> {
    match before {
        Before::Sysctls { values } if values.is_empty() => netlink::delete_link(bridge).map(drop),
        other => undo(other),
    }
}

/// Gives it what a new device gets.
pub(super) fn settle(bridge: &str) -> Result<Value> {
    for name in ready(bridge)?.iter().filter_map(At::sysctl) {
        if let Some(value) = sysctl::read(&name.replace(&format!(".{bridge}."), ".default."))? {
            sysctl::ensure(name, &value)?;
        }
    }
    Ok(Value::Null)
}
