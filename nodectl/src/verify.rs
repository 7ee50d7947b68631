//! Proving the end: what must be true of a node that is on a CNI, compared with what it looks like. Pure.

use crate::cni::{Cni, NODE_LABEL};
use crate::facts::{Facts, RouteKind};
use crate::ownership;
use crate::plan::{Plan, SHIM_CONFLIST, scope};
use crate::prepared::Prepared;
use crate::step::Step;

/// What is not as it must be on a node that is on `cni`; empty where all is well.
pub fn findings(facts: &Facts, prepared: &Prepared, cni: Cni, plan: &Plan) -> Vec<String> {
    let mut findings = Vec::new();
    let mut expect = |holds: bool, finding: String| {
        if !holds {
            findings.push(finding);
        }
    };
    let (new, old) = (cni, cni.other());
    let unseen = facts.unseen();
    expect(unseen.is_empty(), format!("could not be looked at: {}", unseen.join("; ")));
    let overlay = facts.network.overlay(prepared.vni, prepared.port).map(|l| l.name.as_str());
    let wanted = crate::plan::overlay_name(new, prepared.vni);
    expect(overlay == Some(wanted.as_str()), format!("the overlay device is {overlay:?}, not {wanted}"));
    expect(facts.runs(new.process()), format!("{} does not run", new.process()));
    expect(!facts.runs(old.process()), format!("{} still runs", old.process()));
    let mode = facts.shim.mode.as_deref();
    let native = mode.is_none() && !facts.files.conf_names.iter().any(|n| n == SHIM_CONFLIST);
    expect(native || mode == Some(new.name()), format!("the shim's mode is {mode:?}, not {}", new.name()));
    let stale = facts.shim.attachments.get(&old).map_or(0, Vec::len);
    expect(stale == 0, format!("{stale} attachments made by {old} are left"));
    if let Some(cluster) = &facts.cluster {
        let label = cluster.labels.get(NODE_LABEL).map(String::as_str);
        expect(label == Some(new.name()), format!("the label {NODE_LABEL} is {label:?}, not {}", new.name()));
        let condition = cluster.conditions.get("NetworkUnavailable").map(|(status, _)| status.as_str());
        expect(condition != Some("True"), "the Node's condition NetworkUnavailable is True".into());
    }
    let cleaned = plan.steps.iter().any(|s| matches!(s, Step::Clean { cni, .. } if *cni == old));
    if cleaned {
        let left = ownership::leftovers(facts, old, &scope(facts, prepared, old));
        expect(left.is_empty(), format!("{} objects of {old} are left: {}", left.len(), left.join("; ")));
    }
    if new == Cni::Flannel {
        let hole =
            facts.network.routes.iter().any(|r| r.kind == RouteKind::Blackhole && prepared.pod_cidr.contains(&r.dst));
        expect(!hole, "a blackhole route covers this node's pods".into());
    }
    findings
}

/// What differs from the start of a run that was taken back; empty where the node is as it was. What lives by itself
/// (pods, their devices and addresses) is not compared.
pub fn put_back(facts: &Facts, prepared: &Prepared, plan: &Plan, owes: bool) -> Vec<String> {
    let mut findings = findings(facts, prepared, plan.from, &Plan { steps: Vec::new(), ..plan.clone() });
    if owes {
        // Without the API server neither label nor agent can be back yet; that is what is owed.
        findings.retain(|f| !f.contains("label") && !f.contains("does not run") && !f.contains("condition"));
    }
    let target = plan.request.to;
    let left = ownership::leftovers(facts, target, &scope(facts, prepared, target));
    let own = plan.basis.get("conflists").and_then(serde_json::Value::as_array).cloned().unwrap_or_default();
    let conflists: Vec<&String> =
        facts.files.conf_names.iter().filter(|n| !own.iter().any(|o| o == n.as_str())).collect();
    if !left.is_empty() {
        findings.push(format!("{} objects of {target} are left: {}", left.len(), left.join("; ")));
    }
    if !conflists.is_empty() {
        findings.push(format!("network configurations that were not there before: {conflists:?}"));
    }
    findings
}
