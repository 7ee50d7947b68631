//! host-local's store of Canal's network, which has the name of Calico's: out of the way before Calico's agent starts.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::Context;
use crate::host::{backup, files};

/// Where the store waits.
fn aside(cx: &Context) -> PathBuf {
    cx.run.backup.join("leases")
}

/// Moves the store aside. Leases of containers that the runtime has forgotten go with it; one of a container that lives is an error.
pub(super) fn set_aside(cx: &mut Context, store: &str) -> Result<Value> {
    let path = cx.host.path(Path::new(store));
    let leases = leases(&path)?;
    let live: Vec<String> = cx.cri()?.sandboxes()?.into_iter().filter(|s| s.ready).map(|s| s.id).collect();
    if let Some((address, container)) = leases.iter().find(|(_, container)| live.contains(container)) {
        bail!(
            "{store} holds the address {address} for the container {container}, which lives still. To fix it: see what makes pods on \
             this node past its runtime's first network configuration"
        );
    }
    backup::move_aside(&path, &aside(cx))?;
    Ok(json!({ "stale": leases.len() }))
}

/// Puts the store back. Nobody has taken an address from another meanwhile: new pods waited.
pub(super) fn put_back(cx: &Context, store: &str) -> Result<()> {
    backup::put_back(&aside(cx), &cx.host.path(Path::new(store)))
}

/// Addresses in the store, and the containers that hold them.
fn leases(store: &Path) -> Result<Vec<(String, String)>> {
    let mut leases = Vec::new();
    for name in files::list(store)? {
        if name.parse::<std::net::IpAddr>().is_err() {
            continue;
        }
        let text = files::read_text_optional(&store.join(&name))?.unwrap_or_default();
        leases.push((name, text.lines().next().unwrap_or_default().trim().to_owned()));
    }
    Ok(leases)
}
