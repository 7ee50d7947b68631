//! A run that ends owing: what is said of it, and who pays.

use cni_store::pending::Pending;

use crate::cni::Cni;
use crate::execute::Unpaid;
use crate::host::systemd;
use crate::plan::SETTLE_UNIT;
use crate::remedy::Told;
use crate::step::words::count;

/// All that is owed, with what keeps each.
pub(super) fn sentence(cni: Cni, left: &[Unpaid], api_is_dead: bool) -> String {
    let state = match left.iter().all(|unpaid| unpaid.debt.is_leftover()) {
        true => format!("the node is on {cni} again"),
        false => format!("what this node holds of {cni} is back"),
    };
    let until = if api_is_dead { "until the API server answers" } else { "still" };
    let owed: Vec<String> = left.iter().map(Unpaid::to_string).collect();
    format!("{state}, but {until} it owes: {}", owed.join("; "))
}

/// The same with one remedy: what mends the causes, and who pays then.
pub(super) fn told(sentence: &str, left: &[Unpaid], remedy: &str) -> Told {
    let causes = left.iter().filter_map(|unpaid| unpaid.why.as_ref());
    let remedies = causes.flat_map(|why| &why.remedies).fold(Told::of(sentence), |told, remedy| told.mended_by(remedy));
    remedies.mended_by(remedy)
}

/// DELs that failed while the run went on, in a line; the node is well without them.
pub(super) fn kept_dels(paths: &cni_store::Paths) -> Vec<String> {
    let kept = Pending::list(paths).map_or(0, |(kept, torn)| kept.len() + torn.len());
    let line = || {
        format!(
            "{}: `nodectl shim reap` finishes what can be, `nodectl shim status` says why not",
            count(kept, "kept DEL")
        )
    };
    if kept == 0 { Vec::new() } else { vec![line()] }
}

/// Has the unit pay by itself, as soon as it can be, and says who will.
pub(super) fn hand_over() -> String {
    let by_hand = "run `nodectl resume` once nothing is in the way";
    let unit = match systemd::unit(SETTLE_UNIT) {
        Ok(Some(_)) => systemd::start_later(SETTLE_UNIT).map(|()| true),
        Ok(None) => Ok(false),
        Err(error) => Err(error),
    };
    match unit {
        Ok(true) => {
            format!("wait: {SETTLE_UNIT} tries again by itself until all is paid; `nodectl resume` tries at once")
        }
        Ok(false) => format!("{by_hand} ({SETTLE_UNIT}, which would do so by itself, is not installed)"),
        Err(error) => format!("{by_hand} ({SETTLE_UNIT} does not do so by itself: {error:#})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Debt;

    #[test]
    fn every_debt_is_named_with_what_keeps_it() {
        let unpaid = |debt: Debt, why: Option<&str>| Unpaid { debt, why: why.map(Told::of) };
        let dels = || unpaid(Debt::PendingDels, Some("the plugin calico is missing"));
        let label = unpaid(Debt::Label { value: None }, Some("the API server does not answer"));
        let uncordon = unpaid(Debt::Unschedulable { value: false }, None);
        assert_eq!(
            sentence(Cni::Flannel, &[label, uncordon, dels()], true),
            "what this node holds of flannel is back, but until the API server answers it owes: set the label \
             nodectl.io/cni to nothing (the API server does not answer); uncordon the node; finish the DELs that are \
             kept because a plugin failed (the plugin calico is missing)"
        );
        let kept = "1 kept DELs failed again: that of c1: calico is missing. To fix it: see `nodectl shim status`";
        let left = [unpaid(Debt::PendingDels, Some(kept))];
        let message = told(&sentence(Cni::Flannel, &left, false), &left, "wait").to_string();
        assert!(message.ends_with("calico is missing). To fix it: see `nodectl shim status`; wait"), "{message}");
        let alone = sentence(Cni::Flannel, &[dels()], false);
        assert!(alone.starts_with("the node is on flannel again, but still it owes: finish the DELs"), "{alone}");
    }
}
