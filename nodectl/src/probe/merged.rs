//! What became of flows that were asked in two sessions, since the run between them was killed. Pure.

use super::FlowReport;

/// As many as one session remembers.
const REMEMBERED: usize = 16;

/// One report a flow, those of the later session first. The time between the sessions, in which nobody asked, is not counted.
pub fn merged(mut earlier: Vec<FlowReport>, later: Vec<FlowReport>) -> Vec<FlowReport> {
    let mut all = Vec::new();
    for report in later {
        let same = |other: &FlowReport| {
            (&other.from, other.kind, &other.to, other.address, other.expect)
                == (&report.from, report.kind, &report.to, report.address, report.expect)
        };
        match earlier.iter().position(same) {
            Some(known) => all.push(both(&earlier.remove(known), report)),
            None => all.push(report),
        }
    }
    all.extend(earlier);
    all
}

fn both(earlier: &FlowReport, later: FlowReport) -> FlowReport {
    let answered = earlier.answered + later.answered;
    let total = earlier.mean_us.saturating_mul(earlier.answered) + later.mean_us.saturating_mul(later.answered);
    let mut gaps = [earlier.gaps.clone(), later.gaps].concat();
    gaps.sort_by_key(|gap| std::cmp::Reverse(gap.us));
    gaps.truncate(REMEMBERED);
    gaps.sort_by_key(|gap| gap.at_ms);
    let least = [(earlier.answered, earlier.least_us), (later.answered, later.least_us)];
    let mut answers = earlier.answers.clone();
    if let Some(last) = &later.answers {
        answers.get_or_insert_with(|| last.clone()).last_ms = last.last_ms;
    }
    FlowReport {
        sent: earlier.sent + later.sent,
        answered,
        lost: earlier.lost + later.lost,
        refused: earlier.refused + later.refused,
        failed: earlier.failed + later.failed,
        connections: earlier.connections + later.connections,
        breaks: earlier.breaks + later.breaks,
        retransmitted: [earlier.retransmitted, later.retransmitted].into_iter().flatten().reduce(|a, b| a + b),
        longest_gap_us: earlier.longest_gap_us.max(later.longest_gap_us),
        outage_us: earlier.outage_us.max(later.outage_us),
        lost_at_ms: earlier.lost_at_ms.iter().chain(&later.lost_at_ms).copied().take(REMEMBERED).collect(),
        gaps,
        answers,
        least_us: least.into_iter().filter(|(answered, _)| *answered > 0).map(|(_, us)| us).min().unwrap_or(0),
        mean_us: total.checked_div(answered).unwrap_or(0),
        most_us: earlier.most_us.max(later.most_us),
        said: later.said.or_else(|| earlier.said.clone()),
        ..earlier.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Answers;
    use super::*;

    fn report(to: &str, sent: u64, answered: u64, outage_us: u64) -> FlowReport {
        let answers = Answers { first_ms: sent, last_ms: sent + answered, during: Default::default() };
        FlowReport {
            longest_gap_us: outage_us,
            outage_us,
            lost_at_ms: vec![sent],
            answers: (answered > 0).then_some(answers),
            least_us: 10 * answered,
            mean_us: 100,
            most_us: 10 * sent,
            ..FlowReport::example(to, sent, answered)
        }
    }

    #[test]
    fn what_was_lost_before_counts_and_the_worst_of_both_is_the_worst() {
        let earlier = vec![report("a", 10, 8, 700), report("gone", 3, 3, 0)];
        let all = merged(earlier, vec![report("a", 30, 30, 50), report("new", 1, 1, 0)]);
        assert_eq!(all.iter().map(|r| r.to.as_str()).collect::<Vec<_>>(), ["a", "new", "gone"]);
        let a = &all[0];
        assert_eq!((a.sent, a.answered, a.lost, a.outage_us), (40, 38, 2, 700));
        assert_eq!((a.least_us, a.mean_us, a.most_us), (80, 100, 300));
        let answers = a.answers.as_ref().unwrap();
        assert_eq!((answers.first_ms, answers.last_ms, a.lost_at_ms.as_slice()), (10, 60, [10, 30].as_slice()));
    }

    #[test]
    fn one_that_is_answered_no_more_was_answered_before() {
        let all = merged(vec![report("a", 10, 10, 0)], vec![report("a", 20, 0, 900)]);
        assert_eq!((all[0].answered, all[0].lost, all[0].outage_us), (10, 20, 900));
        assert_eq!(all[0].answers.as_ref().unwrap().last_ms, 20);
        assert_eq!(all[0].least_us, 100);
    }
}
