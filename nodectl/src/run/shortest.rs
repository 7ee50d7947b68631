//! How long a switch takes at the very least, so that none is begun that cannot end in time. Pure.

use std::time::Duration;

use anyhow::Result;

use crate::journal::{Log, Outcome};
use crate::request::Request;

/// Where this node has not switched before: two agents' pods leave and come, whatever else is quick.
const AGENTS: Duration = Duration::from_secs(5);

/// The shortest of a node's finished switches to the same CNI by the same strategy; a few seconds where there is none. It had
/// other pods to move, and may have been luckier: that a switch can end in time is not promised.
pub fn shortest(runs: &[(String, Result<Log>)], request: &Request) -> Duration {
    let alike = |log: &&Log| {
        let same = |asked: &Request| asked.to == request.to && asked.strategy == request.strategy;
        log.outcome() == Some(Outcome::Switched)
            && log.plan().is_some_and(|plan| !plan.is_retirement() && same(&plan.request))
    };
    let logs = runs.iter().filter_map(|(_, log)| log.as_ref().ok());
    logs.filter(alike).map(Log::worked).min().unwrap_or(AGENTS)
}
