//! Checks of the pods that a drain meets: each pod it cannot move is named, with what will happen to it.

use super::Check;
use crate::facts::{ClusterView, Facts, Pod};
use crate::plan::{adoption, moves, stays};
use crate::prepared::Prepared;
use crate::probe::wanted;
use crate::request::{Request, Strategy, Unadoptable};
use crate::step::words::count;

pub(super) fn checks(view: &ClusterView, request: &Request) -> Vec<Check> {
    if request.strategy != Strategy::Drain {
        return Vec::new();
    }
    vec![bare(view, request), local_storage(view, request), budgets(view), staying(view)]
}

/// Pods that strategy in-place cannot re-plumb, each with the reason.
pub(super) fn adoptable(facts: &Facts, prepared: &Prepared, request: &Request) -> Option<Check> {
    const NAME: &str = "adoptable-pods";
    // While a run is open, pods stand half way, and what to do is to end it.
    if request.strategy != Strategy::InPlace || facts.runs.open.is_some() {
        return None;
    }
    let adoption = adoption(facts, prepared, request.to);
    if adoption.others.is_empty() {
        let found = format!("{} can be re-plumbed while they run", count(adoption.pods.len(), "pod"));
        return Some(Check::pass(NAME, found));
    }
    let others: Vec<String> = adoption.others.iter().map(|(pod, why)| format!("{pod}: {why}")).collect();
    let found = format!("cannot be re-plumbed while they run: {}", others.join("; "));
    Some(match request.unadoptable {
        Unadoptable::Restart => {
            Check::warn(NAME, found, "their sandboxes are rebuilt, with new addresses, as --unadoptable restart says")
        }
        Unadoptable::Refuse => {
            Check::fail(NAME, found, "delete these pods, or let their sandboxes be rebuilt with --unadoptable restart")
        }
    })
}

/// Running pods that eviction would move.
fn movable(view: &ClusterView) -> impl Iterator<Item = &Pod> {
    view.pods.iter().filter(|p| moves(p) && !p.has_ended())
}

/// What is lost with a pod that moves and was not accepted, and what to do about it; `None` where nothing is.
pub fn loss(pod: &Pod, request: &Request) -> Option<(&'static str, &'static str)> {
    let accepted = |given: bool, check: &str| given || request.ignore.iter().any(|name| name == check);
    if !moves(pod) || pod.has_ended() {
        return None;
    }
    if pod.controller.is_none() && !accepted(request.force, "bare-pods") {
        return Some(("no controller will re-create it", BARE_FIX));
    }
    (pod.local_storage && !accepted(request.delete_emptydir_data, "local-storage"))
        .then_some(("its emptyDir data would be lost", LOCAL_FIX))
}

const BARE_FIX: &str = "delete them, give them a controller, or accept their loss with --force";
const LOCAL_FIX: &str = "accept it with --delete-emptydir-data";

fn names<'a>(pods: impl Iterator<Item = &'a Pod>) -> String {
    pods.map(Pod::full_name).collect::<Vec<_>>().join(", ")
}

fn bare(view: &ClusterView, request: &Request) -> Check {
    let bare: Vec<&Pod> = movable(view).filter(|p| p.controller.is_none()).collect();
    if bare.is_empty() {
        return Check::pass("bare-pods", "every pod that moves has a controller");
    }
    let found = format!("no controller will re-create: {}", names(bare.into_iter()));
    if request.force {
        return Check::warn("bare-pods", found, "they are evicted and gone, as --force says");
    }
    Check::fail("bare-pods", found, BARE_FIX)
}

fn local_storage(view: &ClusterView, request: &Request) -> Check {
    let local: Vec<&Pod> = movable(view).filter(|p| p.local_storage).collect();
    if local.is_empty() {
        return Check::pass("local-storage", "no pod that moves has emptyDir data");
    }
    let found = format!("emptyDir data is lost when these move: {}", names(local.into_iter()));
    if request.delete_emptydir_data {
        return Check::warn("local-storage", found, "accepted with --delete-emptydir-data");
    }
    Check::fail("local-storage", found, LOCAL_FIX)
}

/// A budget that allows nothing now may allow it within the drain's time; one that never will is for the operator.
fn budgets(view: &ClusterView) -> Check {
    let blocked: Vec<String> = movable(view)
        .filter_map(|p| match &p.eviction {
            Some(Some(why)) => Some(format!("{}: {why}", p.full_name())),
            _ => None,
        })
        .collect();
    if blocked.is_empty() {
        return Check::pass("disruption-budgets", "every eviction would be allowed now (asked with dryRun)");
    }
    Check::warn(
        "disruption-budgets",
        format!("not allowed at this moment: {}", blocked.join("; ")),
        "eviction waits for the budget until --drain-timeout; scale the workload up, or loosen its budget",
    )
}

/// Whether the flows that are to be watched begin and end somewhere.
pub(super) fn flows(facts: &Facts, request: &Request) -> Option<Check> {
    const NAME: &str = "probe-flows";
    let asked = request.strategy == Strategy::InPlace && !request.probe.is_empty();
    asked.then(|| match wanted(facts, &request.probe) {
        Ok(flows) if flows.is_empty() => Check::fail(
            NAME,
            "what was named with --probe-from, --probe-to and --probe-refuse makes no flow: a pod and itself say nothing about \
             the network",
            "name another source or another target",
        ),
        Ok(flows) => Check::pass(NAME, format!("{} that were named can be watched", count(flows.len(), "flow"))),
        Err(why) => Check::fail(NAME, why, "name a source and a target that are here"),
    })
}

fn staying(view: &ClusterView) -> Check {
    let staying: Vec<&Pod> = view.pods.iter().filter(|p| stays(p)).collect();
    if staying.is_empty() {
        return Check::pass("staying-pods", "no pod with pod network stays on the node");
    }
    Check::pass(
        "staying-pods",
        format!(
            "{} stay; their sandboxes are rebuilt here with new addresses: {}",
            staying.len(),
            names(staying.into_iter())
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_needs_consent_pod_by_pod() {
        let owned = || Pod { controller: Some(("ReplicaSet".into(), "web".into())), ..Pod::default() };
        let scratch = || Pod { local_storage: true, ..owned() };
        let asked = Request::default();
        let lost = |pod: &Pod, request: &Request| loss(pod, request).map(|(why, _)| why);
        assert_eq!(lost(&owned(), &asked), None);
        assert_eq!(lost(&Pod::default(), &asked), Some("no controller will re-create it"));
        assert_eq!(lost(&scratch(), &asked), Some("its emptyDir data would be lost"));
        // It has ended, or stays.
        assert_eq!(lost(&Pod { phase: "Succeeded".into(), ..Pod::default() }, &asked), None);
        assert_eq!(lost(&Pod { mirror: true, ..scratch() }, &asked), None);
        let forced = Request { force: true, delete_emptydir_data: true, ..Request::default() };
        let ignored = Request { ignore: vec!["bare-pods".into(), "local-storage".into()], ..Request::default() };
        for request in [forced, ignored] {
            assert_eq!((lost(&Pod::default(), &request), lost(&scratch(), &request)), (None, None));
        }
    }
}
