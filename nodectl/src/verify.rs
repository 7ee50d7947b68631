//! Proving the end: what must be true of a node that is on a CNI, compared with what it looks like. Pure.

use cni_spec::conflist::TYPE;
use ipnet::IpNet;

use crate::act;
use crate::cni::{Cni, NODE_LABEL};
use crate::facts::{Facts, Route, RouteKind};
use crate::ownership;
use crate::ownership::routes::PROTO_BOOT;
use crate::plan::{Plan, SHIM_CONFLIST, current_cni, scope};
use crate::prepared::Prepared;
use crate::step::{CleanScope, Step};

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
    for half in prepared.halves() {
        let overlay = facts.network.overlay(prepared.vni, prepared.port, half.is_ipv6()).map(|l| l.name.as_str());
        let wanted = crate::plan::overlay_name(new, prepared.vni, half.is_ipv6());
        expect(overlay == Some(wanted.as_str()), format!("the overlay device is {overlay:?}, not {wanted}"));
    }
    let lacking = facts.agent_lacks(new);
    expect(lacking.is_none(), format!("{} does not run", lacking.unwrap_or_default()));
    expect(!facts.agent_runs(old), format!("{} still runs", old.process()));
    let mode = facts.shim.mode.as_deref();
    let native = mode.is_none() && !facts.files.conf_names.iter().any(|n| n == SHIM_CONFLIST);
    expect(native || mode == Some(new.name()), format!("the shim's mode is {mode:?}, not {}", new.name()));
    // A sandbox of before whose DEL failed is kept for `nodectl shim reap`; nothing hangs on it.
    let is_kept = |id: &&String| facts.shim.pending.contains(id);
    let stale = facts.shim.attachments.get(&old).map_or(0, |ids| ids.iter().filter(|id| !is_kept(id)).count());
    expect(stale == 0, format!("{stale} attachments made by {old} are left"));
    if let Some(cluster) = &facts.cluster {
        let label = cluster.labels.get(NODE_LABEL).map(String::as_str);
        expect(label == Some(new.name()), format!("the label {NODE_LABEL} is {label:?}, not {}", new.name()));
        let condition = cluster.conditions.get("NetworkUnavailable").map(|(status, _)| status.as_str());
        expect(condition != Some("True"), "the Node's condition NetworkUnavailable is True".into());
    }
    let cleaned = plan.steps.iter().find_map(|step| match step {
        Step::Clean { cni, scope } if *cni == old => Some(scope),
        _ => None,
    });
    if let Some(scope) = cleaned {
        let left = ownership::leftovers(facts, old, scope);
        expect(left.is_empty(), format!("{} objects of {old} are left: {}", left.len(), left.join("; ")));
    }
    if new == Cni::Flannel {
        let covers = |dst: &IpNet| prepared.halves().any(|half| half.pod_cidr.contains(dst));
        // flanneld's own, on request (--ip-blackhole-route): the routes to Canal's pods are longer.
        let is_flannels = |r: &Route| prepared.canal && r.proto == PROTO_BOOT;
        let is_hole = |r: &Route| r.kind == RouteKind::Blackhole && covers(&r.dst) && !is_flannels(r);
        let hole = facts.network.routes.iter().any(is_hole);
        expect(!hole, "a blackhole route covers this node's pods".into());
    }
    findings
}

/// What is not as it must be on a node whose shim was retired; empty where it is as if there had never been one.
pub fn retired(facts: &Facts, plan: &Plan) -> Vec<String> {
    let mut findings = without_shim(facts);
    let unseen = facts.unseen();
    if !unseen.is_empty() {
        findings.push(format!("could not be looked at: {}", unseen.join("; ")));
    }
    let cni = current_cni(facts);
    if cni != Some(plan.from) {
        findings.push(format!("the node's CNI is {cni:?} by its network configurations, not {}", plan.from));
    }
    match &facts.runtime {
        None => findings.push("the container runtime does not answer".into()),
        Some(runtime) if runtime.plugins.iter().any(|plugin| plugin == TYPE) => {
            findings.push("the runtime still uses the shim".into());
        }
        Some(runtime) if !runtime.network_ready => findings.push("the runtime's network is not ready".into()),
        Some(_) => {}
    }
    findings
}

fn without_shim(facts: &Facts) -> Vec<String> {
    let mut left = Vec::new();
    if facts.files.conf_names.iter().any(|name| name == SHIM_CONFLIST) {
        left.push(format!("{SHIM_CONFLIST} is left"));
    }
    if facts.files.binaries.contains_key(TYPE) {
        left.push(format!("the plugin {TYPE} is left"));
    }
    left
}

/// What differs on a node whose shim was to be retired and is back.
pub fn not_retired(facts: &Facts, plan: &Plan) -> Vec<String> {
    let mut findings = Vec::new();
    if without_shim(facts).len() < 2 {
        findings.push("the shim's binary or conflist is missing".to_owned());
    }
    let mode = facts.shim.mode.as_deref();
    if mode != Some(plan.from.name()) {
        findings.push(format!("the shim's mode is {mode:?}, not {}", plan.from.name()));
    }
    findings
}

/// What differs from the start of a run that was taken back; empty where the node is as it was. What lives by itself
/// (pods, their devices and addresses) is not compared.
pub fn put_back(facts: &Facts, prepared: &Prepared, plan: &Plan) -> Vec<String> {
    let mut findings = findings(facts, prepared, plan.from, &Plan { steps: Vec::new(), ..plan.clone() });
    let target = plan.request.to;
    // One that was there is given its parameters back, one that was made is gone.
    let keep_bridge = plan.steps.iter().any(|step| matches!(step, Step::MakeBridge { .. }));
    let scope = CleanScope { keep_bridge, ..scope(facts, prepared, target) };
    let mut left = ownership::leftovers(facts, target, &scope);
    left.retain(|found| !act::of_before(plan).any(|file| *found == format!("file {file}")));
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
