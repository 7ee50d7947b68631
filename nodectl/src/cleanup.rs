//! `nodectl cleanup`: takes one CNI off a node and touches nothing else.
//!
//! What goes is decided purely from the facts ([`crate::ownership`]), and so is whether it may go ([`refusals`]). Before the
//! first thing goes, what is known of the CNI and what will be removed is written down ([`record`]): the things are the
//! evidence for each other, and a run that was killed in the middle is finished by the next one.

pub mod record;
pub mod refusals;

use std::time::Instant;

use anyhow::Result;
use ipnet::IpNet;

pub use refusals::Refusal;

use crate::cni::Cni;
use crate::facts::Facts;
use crate::host::Host;
use crate::ownership::{self, Inventory, Known};
use crate::remove::{self, Aside};
use crate::step::RemovedImage;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The CNI that goes.
    pub cni: Cni,
    /// Refusals that were waived, by name.
    pub force: Vec<String>,
    /// Pod networks, where nothing on the node tells.
    pub networks: Vec<IpNet>,
    /// This node's parts of them.
    pub subnets: Vec<IpNet>,
    /// Further names of the CNI's networks.
    pub names: Vec<String>,
    /// Further prefixes of Calico's interfaces.
    pub prefixes: Vec<String>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What goes, and what does not.
    pub inventory: Inventory,
    /// What the decision rests on besides the facts.
    pub known: Known,
    /// Why it is refused, each with the name that waives it.
    pub refusals: Vec<Refusal>,
}

impl Decision {
    /// Refusals that nobody waived.
    pub fn standing(&self) -> impl Iterator<Item = &Refusal> {
        self.refusals.iter().filter(|r| !r.waived)
    }

    /// Whether there is anything to remove.
    pub fn is_empty(&self) -> bool {
        self.inventory.own().next().is_none()
    }
}

/// Decides. `before` is what an earlier run knew that was killed before its end. Pure.
pub fn decide(facts: &Facts, request: &Request, before: Option<&Known>) -> Decision {
    let mut known = Known::of(facts, request.cni);
    known.add(&Known {
        networks: request.networks.clone(),
        subnets: request.subnets.clone(),
        names: request.names.clone(),
        prefixes: request.prefixes.clone(),
        ..Known::default()
    });
    if let Some(before) = before {
        known.add(before);
    }
    known.note(facts, request.cni);
    let inventory = ownership::inventory(facts, request.cni, &known);
    let refusals = refusals::refusals(facts, request, &known, &inventory);
    Decision { inventory, known, refusals }
}

/// How a part of the work went.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Spent {
    /// The part.
    pub part: &'static str,
    /// Milliseconds.
    pub ms: u64,
}

/// Removes it all; `said` is told before each part.
pub fn execute(host: &Host, image: &RemovedImage, aside: &Aside, mut said: impl FnMut(&str)) -> Result<Vec<Spent>> {
    let mut spent = Vec::new();
    for part in remove::busy(image) {
        said(part.name);
        let started = Instant::now();
        part.run(host, image, aside)?;
        let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        spent.push(Spent { part: part.name, ms });
    }
    Ok(spent)
}
