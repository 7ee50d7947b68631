//! `nodectl migrate --when-allowed`: waiting for the word that `nodectl cluster allow` puts on this Node. Nothing is held
//! meanwhile, so Ctrl-C ends it at once.

use std::time::{Duration, SystemTime};

use anyhow::Result;

use crate::cni::{Cni, PACE_ALLOWED, PACE_ANNOTATION};
use crate::failure::Failure;
use crate::host::Host;
use crate::host::kube::Kube;
use crate::request::Request;

/// How often the Node is read; a watch of one object would be no cheaper.
const PAUSE: Duration = Duration::from_secs(3);

/// Waits until this node may begin, or the deadline has come. A server that does not answer is asked again.
pub(super) fn wait(host: &Host, request: &Request, deadline: Option<SystemTime>) -> Result<()> {
    let (mut kube, mut said) = (None, false);
    while request.to == Cni::Calico && !is_allowed(host, &mut kube) {
        if deadline.is_some_and(|end| SystemTime::now() >= end) {
            return Err(Failure::Refused(
                "this node was not allowed to begin before the deadline; nothing was changed".into(),
            )
            .into());
        }
        if !std::mem::replace(&mut said, true) {
            tracing::warn!("waiting for `nodectl cluster allow`: this node is not allowed to begin yet");
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// `known` is the client, once there is one: it follows credentials that rotate.
fn is_allowed(host: &Host, known: &mut Option<Kube>) -> bool {
    let mut node = || -> Result<serde_json::Value> {
        let kube = match known {
            Some(kube) => kube,
            None => known.insert(Kube::for_node(host)?),
        };
        Ok(kube.get(&format!("/api/v1/nodes/{}", kube.node_name()?))?)
    };
    match node() {
        Ok(node) => {
            let word = node.pointer("/metadata/annotations").and_then(|a| a.get(PACE_ANNOTATION)?.as_str());
            word.is_none_or(|word| word == PACE_ALLOWED)
        }
        Err(error) => {
            tracing::info!("this Node cannot be read: {error:#}");
            false
        }
    }
}
