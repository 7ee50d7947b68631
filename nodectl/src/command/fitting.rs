//! Flags that the chosen strategy has no use for. What stands in a configuration file stands there for every run, and is never
//! out of place.

use crate::cli::{ProbeFlags, RevertArgs, Switch};
use crate::failure::Failure;
use crate::request::Strategy;

/// Whether each flag was given.
type Given = Vec<(&'static str, bool)>;

/// Whether the flags of a switch fit its strategy.
pub(super) fn switch(args: &Switch, strategy: Strategy) -> Result<(), Failure> {
    let mut in_place = probe(&args.probe);
    in_place.extend([("--max-outage", args.max_outage.is_some()), ("--unadoptable", args.unadoptable.is_some())]);
    let drain = vec![
        ("--drain-timeout", args.drain_timeout.is_some()),
        ("--grace-period", args.grace_period.is_some()),
        ("--force", args.force == Some(true)),
        ("--delete-emptydir-data", args.delete_emptydir_data == Some(true)),
    ];
    fit(strategy, &in_place, &drain)
}

/// Whether those of a way back do.
pub(super) fn way_back(args: &RevertArgs, strategy: Strategy) -> Result<(), Failure> {
    let mut in_place = probe(&args.probe);
    in_place.extend([("--max-outage", args.max_outage.is_some()), ("--unadoptable", args.unadoptable.is_some())]);
    let drain = vec![
        ("--force", args.force == Some(true)),
        ("--delete-emptydir-data", args.delete_emptydir_data == Some(true)),
    ];
    fit(strategy, &in_place, &drain)
}

/// An open run is undone as its journal says, and asks what it was told to ask when it was begun.
pub(super) fn open_run(args: &RevertArgs, run: &str) {
    let mut given = probe(&args.probe);
    given.extend([
        ("--strategy", args.strategy.is_some()),
        ("--unadoptable", args.unadoptable.is_some()),
        ("--max-outage", args.max_outage.is_some()),
    ]);
    if let Some(names) = names(&given) {
        tracing::warn!("{names}: of no use now: run {run} is open, and is undone as its journal says");
    }
}

fn names(flags: &Given) -> Option<String> {
    let given = flags.iter().filter(|(_, given)| *given).map(|(name, _)| *name);
    Some(given.collect::<Vec<&str>>().join(", ")).filter(|names| !names.is_empty())
}

fn probe(flags: &ProbeFlags) -> Given {
    vec![
        ("--probe-from", !flags.probe_from.is_empty()),
        ("--probe-to", !flags.probe_to.is_empty()),
        ("--probe-refuse", !flags.probe_refuse.is_empty()),
    ]
}

/// Who asks for a limit that nobody would keep is told no. A consent to what is not done anyway does no harm.
fn fit(strategy: Strategy, in_place: &Given, drain: &Given) -> Result<(), Failure> {
    let strategy_name = strategy.name();
    if let Some(names) = names(in_place).filter(|_| strategy != Strategy::InPlace) {
        return Err(Failure::Usage(format!(
            "{names}: of use with --strategy in-place alone, and this is strategy {strategy_name}, with which no pod keeps running. \
             To fix it: add --strategy in-place, or leave it out"
        )));
    }
    if let Some(names) = names(drain).filter(|_| strategy != Strategy::Drain) {
        tracing::warn!("{names}: of no use with strategy {strategy_name}, which evicts nobody");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_protect_nobody_is_refused_and_what_is_idle_is_not() {
        let outage = Switch { max_outage: Some(1), ..Switch::default() };
        for strategy in [Strategy::Drain, Strategy::Recreate] {
            let told = switch(&outage, strategy).unwrap_err();
            assert_eq!(told.code(), 64);
            assert!(
                told.to_string().starts_with("--max-outage: ") && told.to_string().contains("To fix it: "),
                "{told}"
            );
        }
        assert!(switch(&outage, Strategy::InPlace).is_ok());
        let flags = ProbeFlags { probe_refuse: vec!["icmp:10.1.0.2".into()], ..ProbeFlags::default() };
        assert!(switch(&Switch { probe: flags, ..Switch::default() }, Strategy::Drain).is_err());
        let idle = Switch { drain_timeout: Some(5), force: Some(true), ..Switch::default() };
        assert!(switch(&idle, Strategy::InPlace).is_ok() && switch(&idle, Strategy::Drain).is_ok());
    }
}
