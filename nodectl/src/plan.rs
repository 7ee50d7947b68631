//! Deciding: from what the node looks like and what is wanted to an ordered list of steps. Pure: no I/O, no clock, no
//! randomness, so the same input gives the same plan to the byte.

mod arrival;
mod basis;
mod in_place;
mod parts;
mod retire;
mod to_calico;
mod to_flannel;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use arrival::{Arrival, arrival};
pub use basis::{Basis, drift, facts_drift};
pub use in_place::{Adoption, adoption};
pub use parts::{
    BOOT_UNITS, DEADMAN_TIMER, DEADMAN_UNIT, PACKAGED_SHIM, SETTLE_UNIT, SHIM_CONFLIST, SHIM_STATE_DIR, agent, moves,
    overlay_name, peers, scope, shim_backend, stays,
};
pub use retire::retire;

use crate::cni::{Cni, NODE_LABEL};
use crate::facts::Facts;
use crate::ownership::known::is_canal;
use crate::prepared::Prepared;
use crate::request::{Request, Strategy};
use crate::step::{AdoptedPod, Step};

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
    /// The pods that are re-plumbed while they run.
    pub fn adopted(&self) -> impl Iterator<Item = &AdoptedPod> {
        self.steps.iter().filter_map(|step| match step {
            Step::ClaimPod(pod) | Step::LeasePod(pod) => Some(pod),
            _ => None,
        })
    }

    /// Whether the run takes the shim away and leaves the node on its CNI, instead of switching it.
    pub fn is_retirement(&self) -> bool {
        self.from == self.request.to
    }

    /// SHA-256 of the plan in hex: the same plan on two nodes' histories, or in a change request, is the same text.
    pub fn hash(&self) -> String {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
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
        let conf = facts.files.confs.get(name)?;
        let types = types(conf);
        if is_canal(conf) || types.iter().any(|t| t == "flannel") {
            Some(Cni::Flannel)
        } else if types.iter().any(|t| t == "calico") {
            Some(Cni::Calico)
        } else {
            None
        }
    })
}

/// Why it cannot be told which CNI the node is on.
pub(crate) fn unclear(facts: &Facts) -> Unplannable {
    Unplannable(match facts.unobserved.get("files") {
        Some(why) => format!(
            "which CNI this node is on could not be looked at: {why}. To fix it: mend that, and run nodectl as root"
        ),
        None => format!(
            "it is not clear which CNI this node is on: no configuration in {} names flannel or Calico. To fix it: see \
             that the agent's install container has run on this node",
            facts.files.conf_dir
        ),
    })
}

/// What to do about a node that is on this CNI by its network configuration alone.
pub fn half_fix(cni: Cni) -> String {
    let name = cni.name();
    format!(
        "where {cni} is wanted, see why its agent does not serve (the label {NODE_LABEL}={name}, its DaemonSet's pod here); \
         where these are leftovers, see `nodectl cleanup --{name} --dry-run`"
    )
}

/// Makes the plan. A node that is there already gets a plan without steps.
pub fn plan(facts: &Facts, request: &Request) -> Result<Plan, Unplannable> {
    let from = current_cni(facts).ok_or_else(|| unclear(facts))?;
    let cluster = facts.cluster.as_ref().ok_or_else(|| {
        Unplannable(
            "the API server does not answer, and a switch needs it. To fix it: see `nodectl preflight`; only the \
             `nodectl revert` of a run that is still open works without it"
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
    let (steps, mut notes) = match (arrival(facts, request.to), request.to) {
        (Arrival::There, to) => (Vec::new(), vec![format!("this node is on {to} already")]),
        (Arrival::Half(amiss), to) => {
            return Err(Unplannable(format!(
                "new pods get {to} on this node, but: {}. To fix it: {}",
                amiss.join("; "),
                half_fix(to)
            )));
        }
        (Arrival::Elsewhere, _) if request.strategy == Strategy::InPlace => {
            in_place::steps(facts, cluster, prepared, request)
        }
        (Arrival::Elsewhere, Cni::Calico) => to_calico::steps(facts, cluster, prepared, request),
        (Arrival::Elsewhere, Cni::Flannel) => to_flannel::steps(facts, cluster, prepared, request),
    };
    // Canal's own calico-node enforces them.
    if request.to == Cni::Flannel && !steps.is_empty() && !prepared.canal {
        notes.push(
            "flannel enforces no network policies: those for pods of this node end to be enforced here".to_owned(),
        );
    }
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
