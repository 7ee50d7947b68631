//! A probe's result as a table.

use super::bold;
use crate::probe::{Expect, FlowReport};

/// One row a flow, then what was not as it was to be.
pub fn probe_text(reports: &[FlowReport], surprises: &[String]) -> String {
    let head = ["FROM", "", "TO", "SENT", "LOST", "GAP ms", "MEAN ms", "MAX ms", ""].map(str::to_owned);
    let rows: Vec<[String; 9]> = std::iter::once(head).chain(reports.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 9] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let cell = if (3..8).contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            line.push_str(&cell);
            line.push_str("  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    for surprise in surprises {
        text.push_str(&format!("{} {surprise}\n", bold("surprise:")));
    }
    text
}

fn row(report: &FlowReport) -> [String; 9] {
    let ms = |us: u64| format!("{}.{:02}", us / 1000, us % 1000 / 10);
    let mut rest = Vec::new();
    if report.expect == Expect::Refuse {
        rest.push("to be refused".to_owned());
    }
    if let Some(n) = report.retransmitted.filter(|n| *n > 0) {
        rest.push(format!("{n} segments sent again"));
    }
    if report.breaks > 0 {
        rest.push(format!("broke {} times", report.breaks));
    }
    [
        report.from.clone(),
        report.kind.name().to_owned(),
        report.to.clone(),
        report.sent.to_string(),
        report.lost.to_string(),
        ms(report.longest_gap_us),
        ms(report.mean_us),
        ms(report.most_us),
        rest.join(", "),
    ]
}
