//! A plan, laid out to be read.

use super::{bold, wrap};
use crate::plan::Plan;

/// What will be done, in order, and what will happen to whom.
pub fn plan_text(plan: &Plan) -> String {
    let mut text = String::new();
    if plan.steps.is_empty() {
        text.push_str(&format!("Nothing to do: {}.\n", plan.notes.join("; ")));
        return text;
    }
    if plan.is_retirement() {
        text.push_str(&bold(&format!("{}: {} without the shim", plan.node, plan.from)));
        text.push_str(&format!(", {} steps\n\n", plan.steps.len()));
    } else {
        text.push_str(&bold(&format!("{}: {} -> {}", plan.node, plan.from, plan.request.to)));
        text.push_str(&format!(", strategy {}, {} steps\n\n", plan.request.strategy.name(), plan.steps.len()));
    }
    for (n, step) in plan.steps.iter().enumerate() {
        text.push_str(&format!("  {:>2}  {}\n", n + 1, wrap(&step.title(), 6)));
    }
    if !plan.notes.is_empty() {
        text.push_str("\nPods:\n");
        plan.notes.iter().for_each(|note| text.push_str(&format!("  - {}\n", wrap(note, 4))));
    }
    text
}
