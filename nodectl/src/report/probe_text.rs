//! A probe's result as a table that fits into 80 columns.

use super::{bold, wrap_at};
use crate::clock;
use crate::probe::{Expect, FlowReport, Gap};

const WIDTH: usize = 80;
/// Of a flow's gaps, so many are told: the longest.
const TOLD: usize = 3;

/// The table, then what was not as it was to be, then the runs that were at work meanwhile.
pub fn probe_text(reports: &[FlowReport], surprises: &[String], runs: &[String]) -> String {
    let mut text = flows_text(&reports.iter().collect::<Vec<_>>());
    text.push_str(&surprises_text(surprises));
    if !runs.is_empty() {
        text.push_str(&format!("Steps are those of run {}.\n", runs.join(", ")));
    }
    text
}

/// One line each.
pub(super) fn surprises_text(surprises: &[String]) -> String {
    surprises.iter().map(|text| format!("{}\n", wrap_at(WIDTH, &format!("{} {text}", bold("surprise:")), 2))).collect()
}

/// One row a flow, below the name of its source, and what else is to be said of it.
pub(super) fn flows_text(reports: &[&FlowReport]) -> String {
    let head = ["SENT", "LOST", "GAP ms", "MEAN ms", "MAX ms"].map(str::to_owned);
    let rows: Vec<[String; 5]> = std::iter::once(head).chain(reports.iter().map(|report| numbers(report))).collect();
    let widths: [usize; 5] = std::array::from_fn(|n| rows.iter().map(|row| row[n].len()).max().unwrap_or(0));
    let right = |row: &[String; 5]| -> String {
        row.iter().zip(widths).map(|(cell, width)| format!("  {cell:>width$}")).collect()
    };
    let targets: Vec<String> = reports.iter().map(|report| format!("  {} {}", report.kind.name(), report.to)).collect();
    let room = WIDTH.saturating_sub(widths.iter().map(|width| width + 2).sum());
    let fitting = targets.iter().map(|target| target.chars().count()).filter(|length| *length <= room);
    let left = fitting.max().unwrap_or(0).max("FROM, TO".len());
    let mut text = format!("{:<left$}{}\n", "FROM, TO", right(&rows[0]));
    let mut from = None;
    for ((report, target), row) in reports.iter().zip(&targets).zip(&rows[1..]) {
        if from != Some(&report.from) {
            text.push_str(&format!("{}\n", report.from));
            from = Some(&report.from);
        }
        // A name that leaves no room for numbers has a line of its own.
        match target.chars().count() <= left {
            true => text.push_str(&format!("{target:<left$}{}\n", right(row))),
            false => text.push_str(&format!("{target}\n{:<left$}{}\n", "", right(row))),
        }
        for line in remarks(report) {
            text.push_str(&format!("    {}\n", wrap_at(WIDTH, &line, 4)));
        }
    }
    text
}

fn numbers(report: &FlowReport) -> [String; 5] {
    let ms = |us: u64| format!("{}.{:02}", us / 1000, us % 1000 / 10);
    let counts = [report.sent, report.lost].map(|n| n.to_string());
    let [sent, lost] = counts;
    [sent, lost, ms(report.longest_gap_us), ms(report.mean_us), ms(report.most_us)]
}

fn remarks(report: &FlowReport) -> Vec<String> {
    let mut remarks = Vec::new();
    if report.expect == Expect::Refuse {
        remarks.push("to be refused".to_owned());
    }
    if let Some(n) = report.retransmitted.filter(|n| *n > 0) {
        remarks.push(format!("{n} segments sent again"));
    }
    if report.breaks > 0 {
        remarks.push(format!("broke {} times", report.breaks));
    }
    let mut lines: Vec<String> = Some(remarks.join(", ")).filter(|line| !line.is_empty()).into_iter().collect();
    if report.expect == Expect::Pass {
        let mut gaps: Vec<&Gap> = report.gaps.iter().filter(|gap| gap.during.is_known()).collect();
        gaps.sort_by_key(|gap| std::cmp::Reverse(gap.us));
        gaps.truncate(TOLD);
        gaps.sort_by_key(|gap| gap.at_ms);
        let line = |gap: &Gap| format!("{} ms from {}{}", gap.us / 1000, clock::time_of_day(gap.at_ms), gap.during);
        lines.extend(gaps.into_iter().map(line));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::During;

    fn flow(from: &str, to: &str) -> FlowReport {
        FlowReport {
            from: from.into(),
            longest_gap_us: 123_456,
            outage_us: 123_456,
            least_us: 40,
            mean_us: 71,
            most_us: 12_345_678,
            ..FlowReport::example(to, 1000, 998)
        }
    }

    #[test]
    fn no_line_is_wider_than_a_terminal() {
        let (long, longest) =
            ("default/a-name-of-forty-characters-xxxxxxxxx", "kube-system/".to_owned() + &"x".repeat(50));
        let step = "start-agent (label the node so that Calico comes, and wait until it serves)".to_owned();
        let during = During { step: Some(step.clone()), last_step: Some("claim-pod (give it to Calico)".into()) };
        let mut cut = flow("host", longest.as_str());
        cut.gaps = vec![
            Gap { at_ms: 3_600_500, us: 1000, during: during.clone() },
            Gap { at_ms: 1, us: 2, during: During::default() },
        ];
        let refused = FlowReport { expect: Expect::Refuse, breaks: 2, ..flow("default/a", "10.1.0.9:53") };
        let flows = [flow("host", "10.1.0.2:7"), cut, flow(long, long), refused];
        let surprise = format!("{} was silent for 1 ms, more than the 0 ms of --max-outage{during}", flows[1].name());
        let text = probe_text(&flows, &[surprise], &["r1".into()]);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with("FROM, TO ") && lines[0].ends_with("SENT  LOST  GAP ms  MEAN ms    MAX ms"),
            "{text}"
        );
        assert_eq!(lines[1], "host");
        assert!(
            lines[2].starts_with("  udp 10.1.0.2:7 ") && lines[2].ends_with("1000     2  123.45     0.07  12345.67"),
            "{text}"
        );
        assert_eq!(lines[3], format!("  udp {longest}"), "{text}");
        assert!(lines[5].starts_with("    1 ms from 01:00:00.500Z, from start-agent (label"), "{text}");
        assert!(
            text.contains("    to be refused, broke 2 times\n") && text.contains("surprise: host -> udp"),
            "{text}"
        );
        assert!(text.ends_with("Steps are those of run r1.\n"), "{text}");
        assert_eq!(text.matches(" ms from ").count(), 1, "{text}");
    }
}
