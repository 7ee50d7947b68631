//! Preflight's checks, laid out to be read: what is wrong first.

use super::{bold, wrap};
use crate::preflight::{Check, Verdict};

/// Each check with what it found; failures with their remedy.
pub fn preflight_text(checks: &[Check]) -> String {
    let mut text = String::new();
    for verdict in [Verdict::Fail, Verdict::Ignored, Verdict::Warn, Verdict::Pass] {
        for check in checks.iter().filter(|c| c.verdict == verdict) {
            let word = match verdict {
                Verdict::Pass => "ok  ",
                Verdict::Warn => "warn",
                Verdict::Fail => "FAIL",
                Verdict::Ignored => "skip",
            };
            let name = bold(&format!("{:<18}", check.name));
            text.push_str(&format!("  {word}  {name} {}\n", wrap(&check.found, 27)));
            if !check.fix.is_empty() && verdict != Verdict::Pass {
                text.push_str(&format!("{:27}To fix it: {}\n", "", wrap(&check.fix, 27)));
            }
        }
    }
    let failed = checks.iter().filter(|c| c.verdict == Verdict::Fail).count();
    let warned = checks.iter().filter(|c| c.verdict == Verdict::Warn).count();
    text.push_str(&match failed {
        0 => format!("\nReady: {} checks, {warned} to be known.\n", checks.len()),
        _ => format!("\nNot ready: {failed} of {} checks failed.\n", checks.len()),
    });
    text
}

/// What should be known before the question is answered; empty where there is nothing.
pub fn warnings_text(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks.iter().filter(|c| matches!(c.verdict, Verdict::Warn | Verdict::Ignored)) {
        if text.is_empty() {
            text.push_str("\nTo be known:\n");
        }
        let word = if check.verdict == Verdict::Ignored { " (ignored, as told)" } else { "" };
        text.push_str(&format!("  - {}{word}: {}\n", check.name, wrap(&check.found, 4)));
    }
    text
}
