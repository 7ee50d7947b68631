//! What flows need before they can be asked: their namespaces' paths, and echoes in pods.

use std::collections::BTreeMap;

use anyhow::Result;

use super::{Flow, Wanted};
use crate::host::Host;
use crate::host::answerer::Answerer;

/// The flows, and the echoes that some of them need for as long as they are asked.
pub fn open(host: &Host, wanted: &[Wanted]) -> Result<(Vec<Flow>, Vec<Answerer>)> {
    let mut echoes: BTreeMap<&String, Answerer> = BTreeMap::new();
    let mut flows = Vec::new();
    for flow in wanted {
        let mut whole = flow.clone();
        if let Some(netns) = flow.to_netns.as_ref().filter(|_| flow.wants_echo()) {
            let port = match echoes.get(netns) {
                Some(echo) => echo.port(),
                None => echoes.entry(netns).or_insert(Answerer::start(Some(&host.path(netns)), 0)?).port(),
            };
            whole.address.set_port(port);
        }
        flows.push(Flow {
            to: whole.target(),
            from: whole.from,
            netns: whole.netns.as_ref().map(|netns| host.path(netns)),
            kind: whole.kind,
            address: whole.address,
            expect: whole.expect,
        });
    }
    Ok((flows, echoes.into_values().collect()))
}
