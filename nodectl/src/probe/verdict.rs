//! Whether a flow did what it was to do. Pure.

use std::time::Duration;

use super::{Expect, FlowReport};

/// What is not as it was to be, in words; `None` where all is. A flow that is to pass may be silent for `max_outage` at most;
/// without that limit it is enough that it is answered at all and that no connection breaks.
pub fn surprise(report: &FlowReport, max_outage: Option<Duration>) -> Option<String> {
    let said = report.said.as_ref().map(|said| format!(" ({said})")).unwrap_or_default();
    match report.expect {
        Expect::Refuse if report.answered > 0 => {
            Some(format!("is to be refused and was answered {} times", report.answered))
        }
        Expect::Refuse => None,
        Expect::Pass if report.answered == 0 => Some(format!("was never answered{said}")),
        Expect::Pass if report.breaks > 0 => Some(format!("lost its connection {} times{said}", report.breaks)),
        Expect::Pass => {
            let limit = u64::try_from(max_outage?.as_micros()).unwrap_or(u64::MAX);
            (report.outage_us > limit)
                .then(|| format!("was silent for {} ms, more than {} ms{said}", report.outage_us / 1000, limit / 1000))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::line::Kind;

    fn report(expect: Expect, answered: u64, breaks: u64, outage_us: u64) -> FlowReport {
        FlowReport {
            from: "host".into(),
            kind: Kind::Udp,
            to: "10.1.0.2:7".into(),
            address: "10.1.0.2:7".parse().unwrap(),
            expect,
            sent: 10,
            answered,
            lost: 10 - answered,
            refused: 0,
            breaks,
            retransmitted: None,
            longest_gap_us: outage_us,
            outage_us,
            lost_at_ms: Vec::new(),
            gaps: Vec::new(),
            least_us: 0,
            mean_us: 0,
            most_us: 0,
            said: None,
        }
    }

    #[test]
    fn either_kind_of_surprise_is_told() {
        let limit = Some(Duration::from_millis(100));
        let told = |expect, answered, breaks, gap| surprise(&report(expect, answered, breaks, gap), limit);
        assert_eq!(told(Expect::Pass, 9, 0, 100_000), None);
        assert_eq!(told(Expect::Pass, 9, 0, 200_999).unwrap(), "was silent for 200 ms, more than 100 ms");
        assert_eq!(told(Expect::Pass, 0, 0, 0).unwrap(), "was never answered");
        assert!(told(Expect::Pass, 9, 1, 0).unwrap().contains("lost its connection"));
        assert_eq!(told(Expect::Refuse, 0, 3, 999_999), None);
        assert!(told(Expect::Refuse, 1, 0, 0).unwrap().contains("is to be refused and was answered"));
        assert_eq!(surprise(&report(Expect::Pass, 1, 0, u64::MAX), None), None, "no limit was given");
    }
}
