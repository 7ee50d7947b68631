//! Asking other nodes whether they answer: an echo request to the next hop and to the node behind it, then kubelet's port.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;

use crate::doctor::Target;
use crate::facts::Peer;
use crate::host::ping;

/// Echo requests to each; one may be lost.
const ECHOES: u32 = 2;
/// How long each may take.
const ECHO_LIMIT: Duration = Duration::from_millis(500);
/// Every node's kubelet listens here.
const KUBELET: u16 = 10250;
/// How long a connection to it may take.
const TCP_LIMIT: Duration = Duration::from_secs(1);
/// Connections at one time.
const AT_ONCE: usize = 64;

/// Who answers. Takes 2 s where somebody does not.
pub fn peers(targets: &[Target]) -> Result<Vec<Peer>> {
    let all: BTreeSet<IpAddr> = targets.iter().flat_map(|t| [Some(t.gateway), t.node]).flatten().collect();
    let all: Vec<IpAddr> = all.into_iter().collect();
    let replies = ping::ping(&all, ECHOES, ECHO_LIMIT)?;
    let answers = |ip: IpAddr| replies.iter().any(|r| r.target == ip && r.received > 0);
    // A node may refuse echo requests; its kubelet's port is open all the same.
    let silent: BTreeSet<IpAddr> = targets.iter().filter_map(|t| t.node).filter(|ip| !answers(*ip)).collect();
    let serving = serving(&silent.into_iter().collect::<Vec<_>>());
    let alive = |ip: IpAddr| answers(ip) || serving.contains(&ip);
    let peer = |t: &Target| Peer {
        gateway: t.gateway,
        answers: answers(t.gateway) || t.node == Some(t.gateway) && alive(t.gateway),
        node_answers: t.node.is_some_and(alive),
    };
    Ok(targets.iter().map(peer).collect())
}

/// Those whose kubelet accepts a connection.
fn serving(nodes: &[IpAddr]) -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    for some in nodes.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let asked: Vec<_> = some
                .iter()
                .map(|ip| scope.spawn(|| (*ip, ping::tcp_connect(SocketAddr::new(*ip, KUBELET), TCP_LIMIT))))
                .collect();
            found.extend(asked.into_iter().filter_map(|t| t.join().ok()).filter(|(_, open)| *open).map(|(ip, _)| ip));
        });
    }
    found
}
