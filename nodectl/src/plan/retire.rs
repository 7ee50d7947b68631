//! Taking the shim away from a node that needs it no longer, so that it equals one on which its CNI was installed directly.

use super::{BOOT_UNITS, PLAN_FORMAT, Plan, SHIM_STATE_DIR, basis};
use crate::cni::Cni;
use crate::facts::Facts;
use crate::prepared::Prepared;
use crate::request::Request;
use crate::shim::{Native, ShimView};
use crate::step::Step;

/// The plan. `prepared` is what the last switch rested on: by now the cluster may have forgotten it.
pub fn retire(facts: &Facts, view: &ShimView, cni: Cni, native: &Native, node: String, prepared: Prepared) -> Plan {
    let units = || BOOT_UNITS.map(str::to_owned).to_vec();
    let mut pods: Vec<String> = view.attachments.iter().map(|attachment| attachment.name()).collect();
    pods.sort_unstable();
    let mut steps = Vec::new();
    if !facts.units.is_empty() {
        steps.push(Step::EnableBootUnits { units: units() });
    }
    // The conflist first: from then on no new pod comes through the shim. The binary stays until the runtime's cache names
    // it no more, since CRI-O deletes pods by what is cached.
    steps.push(Step::RemoveShimConflist { path: view.conflist.clone() });
    steps.push(Step::HandOverAttachments { pods, network: native.network.clone(), conflist: native.conflist.clone() });
    steps.push(Step::RemoveShimBinary { path: view.binary.clone() });
    steps.push(Step::RemoveShimState { folder: SHIM_STATE_DIR.into() });
    if !facts.units.is_empty() {
        steps.push(Step::DisableBootUnits { units: units() });
    }
    Plan {
        format: PLAN_FORMAT,
        node,
        request: Request { to: cni, ..Request::default() },
        from: cni,
        steps,
        notes: Vec::new(),
        prepared,
        conf_dir: facts.files.conf_dir.clone(),
        bin_dir: facts.files.bin_dir.clone(),
        basis: basis::basis(facts),
    }
}
