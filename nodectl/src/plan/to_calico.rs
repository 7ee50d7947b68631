//! flannel -> Calico, takeover of the overlay. The order is the point; each step's place says why.

use super::parts;
use crate::cni::Cni;
use crate::facts::{ClusterView, Facts, Link, Saved};
use crate::ownership::files::LEASES;
use crate::prepared::{Half, Prepared, Vtep};
use crate::request::Request;
use crate::rules::{self, OwnedRules};
use crate::step::Step;

/// The steps and what will happen to whom.
pub fn steps(facts: &Facts, cluster: &ClusterView, prepared: &Prepared, request: &Request) -> (Vec<Step>, Vec<String>) {
    let flannel = parts::agent(facts, prepared, Cni::Flannel, request.agent_timeout_s);
    let calico = parts::agent(facts, prepared, Cni::Calico, request.agent_timeout_s);
    let mut steps = parts::prologue(facts, prepared, Cni::Flannel);
    // Cordon, evict, baseline, hold.
    steps.extend(parts::quiesce(facts, cluster, prepared, request));
    // felix blackholes every block of its node as soon as it runs: no pod may hang on cni0 any more by then.
    let sandboxes = Step::StopSandboxes { made_by: Cni::Flannel, pods: parts::staying(cluster), spare: Vec::new() };
    // flanneld puts back what is removed under it, so it goes before anything of it is touched.
    let agent = Step::StopAgent(flannel.clone());
    if prepared.canal {
        // Its plugin's token is kept fresh only while it runs, and felix takes the interfaces' routes and chains away.
        steps.extend([sandboxes, agent]);
        steps.extend(keep_rules(facts));
        steps.push(Step::SetLeasesAside { store: format!("{LEASES}/{}", prepared.flannel.network) });
    } else {
        steps.push(agent);
        steps.extend(keep_rules(facts));
        steps.push(sandboxes);
    }
    steps.extend(prepared.halves().map(|half| overlay_step(facts, prepared, half)));
    steps.push(Step::StartAgent(calico));
    // Probe, release, await pods, uncordon.
    steps.extend(parts::reopen(facts, cluster, prepared, request));
    // Only now: until here every step's undo needs what flannel left.
    steps.push(Step::Clean { cni: Cni::Flannel, scope: flannel.scope });
    steps.extend(parts::epilogue(facts));
    (steps, parts::pod_notes(facts, cluster))
}

/// flannel 0.25.0 to 0.26.7 removes its rules when it stops.
pub fn keep_rules(facts: &Facts) -> Option<Step> {
    let rules = flannel_rules(&facts.firewall.saved);
    (!rules.is_empty()).then_some(Step::KeepFlannelRules { rules })
}

/// A renamed device keeps address, routes, neighbours and forwarding entries, and felix keeps it; one that felix would
/// not accept is deleted, because felix cannot create its own beside it (same VNI and port: EEXIST).
pub fn overlay_step(facts: &Facts, prepared: &Prepared, half: Half) -> Step {
    let [from, to] = [Cni::Flannel, Cni::Calico].map(|cni| parts::overlay_name(cni, prepared.vni, half.is_ipv6()));
    match facts.network.link(&from).and_then(|link| mismatch(link, prepared, half.vtep)) {
        Some(why) => Step::DeleteOverlay { link: from, why },
        None => Step::RenameOverlay { from, to },
    }
}

/// What felix compares before it keeps a device; the first difference.
pub fn mismatch(link: &Link, prepared: &Prepared, vtep: &Vtep) -> Option<String> {
    let Some(vxlan) = &link.vxlan else {
        return Some("it is not a VXLAN device".into());
    };
    if vxlan.vni != prepared.vni {
        return Some(format!("its VNI is {}, Calico's will be {}", vxlan.vni, prepared.vni));
    }
    if vxlan.port != prepared.port {
        return Some(format!("its port is {}, Calico's will be {}", vxlan.port, prepared.port));
    }
    if vxlan.local != Some(vtep.public_ip) {
        return Some(format!("its local address is not {}", vtep.public_ip));
    }
    if vxlan.learning {
        return Some("it learns forwarding entries, Calico's does not".into());
    }
    if vxlan.gbp {
        return Some("it has the group-policy extension, Calico's does not".into());
    }
    if link.mac != vtep.mac {
        return Some(format!("its MAC is {}, prepare recorded {}", link.mac, vtep.mac));
    }
    None
}

/// flannel's chains as they stand.
fn flannel_rules(saved: &[Saved]) -> Vec<OwnedRules> {
    saved
        .iter()
        .filter_map(|s| {
            let owned = rules::owned(&s.text, |_, chain| rules::is_flannel_chain(chain), rules::is_flannel_rule);
            (!owned.tables.is_empty()).then_some(OwnedRules { backend: s.backend, family: s.family, owned })
        })
        .collect()
}
