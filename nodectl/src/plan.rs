//! Deciding: from what the node looks like and what is wanted to an ordered list of steps. Pure: no I/O, no clock, no
//! randomness, so the same input gives the same plan to the byte.

mod basis;
mod parts;
mod retire;
mod to_calico;
mod to_flannel;

use serde::{Deserialize, Serialize};

pub use basis::{Basis, drift, facts_drift};
pub use parts::{
    BOOT_UNITS, PACKAGED_SHIM, SETTLE_UNIT, SHIM_CONFLIST, SHIM_STATE_DIR, agent, moves, overlay_name, peers, scope,
    shim_backend, stays,
};
pub use retire::retire;

use crate::cni::Cni;
use crate::facts::Facts;
use crate::prepared::Prepared;
use crate::request::Request;
use crate::step::Step;

/// Version of a plan's serialised form.
pub const PLAN_FORMAT: u32 = 1;

/// What will be done, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// [`PLAN_FORMAT`].
    pub format: u32,
    /// The node's name.
    pub node: String,
    /// What was asked for.
    pub request: Request,
    /// The CNI the node is on now.
    pub from: Cni,
    /// The steps.
    pub steps: Vec<Step>,
    /// What will happen to whom, in sentences.
    pub notes: Vec<String>,
    /// What prepare told this node: a revert must know it with the API server dead, too.
    pub prepared: Prepared,
    /// The CNI configuration directory that the runtime reads.
    pub conf_dir: String,
    /// The CNI binary directory that the runtime uses.
    pub bin_dir: String,
    /// What the plan rests on; a saved plan is refused where this has changed.
    pub basis: Basis,
}

impl Plan {
    /// Whether the run takes the shim away and leaves the node on its CNI, instead of switching it.
    pub fn is_retirement(&self) -> bool {
        self.from == self.request.to
    }
}

/// Why no plan can be made. Each is a sentence with its remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplannable(pub String);

impl std::fmt::Display for Unplannable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unplannable {}

/// Which CNI the node is on: the shim's state where the shim is installed, else what its own conflist and label say.
pub fn current_cni(facts: &Facts) -> Option<Cni> {
    match facts.shim.mode.as_deref() {
        Some("flannel") => return Some(Cni::Flannel),
        Some("calico") => return Some(Cni::Calico),
        _ => {}
    }
    let types = |value: &serde_json::Value| -> Vec<String> {
        let plugins = value.get("plugins").and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
        plugins.iter().filter_map(|p| p.get("type")?.as_str().map(str::to_owned)).collect()
    };
    facts.files.conf_names.iter().find_map(|name| {
        let types = types(facts.files.confs.get(name)?);
        if types.iter().any(|t| t == "flannel") {
            Some(Cni::Flannel)
        } else if types.iter().any(|t| t == "calico") {
            Some(Cni::Calico)
        } else {
            None
        }
    })
}

/// Makes the plan. A node that is there already gets a plan without steps.
pub fn plan(facts: &Facts, request: &Request) -> Result<Plan, Unplannable> {
    let from = current_cni(facts).ok_or_else(|| {
        Unplannable(format!(
            "it is not clear which CNI this node is on: no configuration in {} names flannel or Calico. \
             To fix it: see `nodectl preflight`",
            facts.files.conf_dir
        ))
    })?;
    let cluster = facts.cluster.as_ref().ok_or_else(|| {
        Unplannable(
            "the API server does not answer, and a switch needs it. To fix it: see `nodectl preflight`; \
             `nodectl revert` works without it"
                .into(),
        )
    })?;
    let prepared = match &cluster.prepared {
        Some(Ok(prepared)) => prepared,
        _ => {
            return Err(Unplannable(
                "this node is not prepared. To fix it: run `nodectl cluster prepare` with an admin kubeconfig".into(),
            ));
        }
    };
    let (steps, notes) = if from == request.to {
        (Vec::new(), vec![format!("this node is on {from} already")])
    } else {
        match request.to {
            Cni::Calico => to_calico::steps(facts, cluster, prepared, request),
            Cni::Flannel => to_flannel::steps(facts, cluster, prepared, request),
        }
    };
    Ok(Plan {
        format: PLAN_FORMAT,
        node: cluster.node.clone(),
        request: request.clone(),
        from,
        steps,
        notes,
        prepared: prepared.clone(),
        conf_dir: facts.files.conf_dir.clone(),
        bin_dir: facts.files.bin_dir.clone(),
        basis: basis::basis(facts),
    })
}
