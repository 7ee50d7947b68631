//! Admission webhooks: while the only node is switched that their pods run on, nobody answers the API server, and it refuses
//! what they would be asked about. They are named; nothing is refused for them.

use crate::cluster::check::{Check, listed};
use crate::cluster::facts::ClusterFacts;

/// Names the webhooks that one node alone answers.
pub fn check(facts: &ClusterFacts) -> Check {
    const NAME: &str = "admission-webhooks";
    let alone = facts.webhooks.iter().filter_map(|w| match w.nodes.as_slice() {
        [node] => Some(format!("{} (Service {}, on {node})", w.configuration, w.service)),
        [] => Some(format!("{} (Service {}, which has no ready pod)", w.configuration, w.service)),
        _ => None,
    });
    let alone: Vec<String> = alone.collect();
    if alone.is_empty() {
        return Check::passed(NAME, "no admission webhook hangs on the pod network of one node");
    }
    Check::warning(
        NAME,
        format!(
            "while that node is switched, the API server refuses what these have to be asked about: {}",
            listed(&alone)
        ),
        "give each a second replica on another node, or let it fail open for that time (failurePolicy: Ignore)",
    )
}
