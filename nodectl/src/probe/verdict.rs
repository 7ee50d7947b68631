//! Whether a flow did what it was to do. Pure.

use std::time::Duration;

use super::{During, Expect, FlowReport};

/// What is not as it was to be, in words; `None` where all is. A flow that is to pass may be silent for `max_outage` at most;
/// without that limit it is enough that it is answered at all and that no connection breaks. Refused is what the network
/// refuses or swallows: what could not be asked shows nothing, and a connection that stands was not refused.
pub fn surprise(report: &FlowReport, max_outage: Option<Duration>) -> Option<String> {
    let said = report.said.as_ref().map(|said| format!(" ({said})")).unwrap_or_default();
    let during = |during: Option<&During>| during.map(During::to_string).unwrap_or_default();
    let limit = max_outage.unwrap_or(Duration::MAX);
    match report.expect {
        Expect::Refuse if report.answered > 0 => Some(format!(
            "is to be refused and was answered {} times{}",
            report.answered,
            during(report.answers.as_ref().map(|answers| &answers.during))
        )),
        Expect::Refuse if report.connections > 0 => {
            Some(format!("is to be refused and was connected {} times", report.connections))
        }
        Expect::Refuse if report.failed == report.sent => {
            Some(format!("is to be refused and could not be asked, so nothing is known{said}"))
        }
        Expect::Refuse => None,
        Expect::Pass if report.answered == 0 => Some(format!("was never answered{said}")),
        Expect::Pass if is_cut_off(report, limit) => Some(format!(
            "was silent for {} ms, more than the {} ms of --max-outage{}",
            report.outage_us / 1000,
            limit.as_millis(),
            during(report.gaps.iter().max_by_key(|gap| gap.us).map(|gap| &gap.during))
        )),
        Expect::Pass if report.breaks > 0 => Some(format!("lost its connection {} times{said}", report.breaks)),
        Expect::Pass => None,
    }
}

/// Whether a flow that is to pass was silent for longer.
pub fn is_cut_off(report: &FlowReport, max_outage: Duration) -> bool {
    report.expect == Expect::Pass && u128::from(report.outage_us) > max_outage.as_micros()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{Answers, Gap};

    fn report(expect: Expect, answered: u64, breaks: u64, outage_us: u64) -> FlowReport {
        FlowReport {
            expect,
            breaks,
            longest_gap_us: outage_us,
            outage_us,
            ..FlowReport::example("10.1.0.2:7", 10, answered)
        }
    }

    #[test]
    fn either_kind_of_surprise_is_told() {
        let limit = Some(Duration::from_millis(100));
        let told = |expect, answered, breaks, gap| surprise(&report(expect, answered, breaks, gap), limit);
        assert_eq!(told(Expect::Pass, 9, 0, 100_000), None);
        assert_eq!(
            told(Expect::Pass, 9, 0, 200_999).unwrap(),
            "was silent for 200 ms, more than the 100 ms of --max-outage"
        );
        assert_eq!(told(Expect::Pass, 0, 0, 0).unwrap(), "was never answered");
        assert!(told(Expect::Pass, 9, 1, 0).unwrap().contains("lost its connection"));
        assert_eq!(told(Expect::Refuse, 0, 3, 999_999), None);
        assert!(told(Expect::Refuse, 1, 0, 0).unwrap().contains("is to be refused and was answered"));
        assert_eq!(surprise(&report(Expect::Pass, 1, 0, u64::MAX), None), None, "no limit was given");
    }

    #[test]
    fn only_the_network_can_refuse() {
        let refused = report(Expect::Refuse, 0, 0, 0);
        assert_eq!(surprise(&refused, None), None, "silence");
        let failed = FlowReport { failed: 10, said: Some("no route".into()), ..refused.clone() };
        assert!(surprise(&failed, None).unwrap().ends_with("so nothing is known (no route)"));
        assert_eq!(surprise(&FlowReport { failed: 9, ..failed }, None), None, "it was asked once");
        assert!(surprise(&FlowReport { sent: 0, ..refused.clone() }, None).is_some(), "never asked");
        // What listens there need not be an echo.
        let connected = FlowReport { connections: 1, breaks: 1, ..refused };
        assert!(surprise(&connected, None).unwrap().contains("connected 1 times"));
    }

    #[test]
    fn the_steps_of_a_run_are_named() {
        let during = During { step: Some("hold".into()), last_step: Some("start-agent".into()) };
        let gaps = vec![
            Gap { at_ms: 1, us: 5, during: During::default() },
            Gap { at_ms: 2, us: 900_000, during: During { last_step: None, ..during.clone() } },
        ];
        let silent = FlowReport { gaps, ..report(Expect::Pass, 9, 0, 900_000) };
        assert!(surprise(&silent, Some(Duration::ZERO)).unwrap().ends_with("of --max-outage, during hold"));
        let answers = Some(Answers { first_ms: 1, last_ms: 2, during });
        let passed = FlowReport { answers, ..report(Expect::Refuse, 3, 0, 0) };
        assert!(surprise(&passed, None).unwrap().ends_with("answered 3 times, from hold to start-agent"));
    }
}
