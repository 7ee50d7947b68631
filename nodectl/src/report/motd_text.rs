//! What is shown at a login while a run is open.

use super::status_text::{course, next};
use super::wrap;
use crate::journal::{Course, Position};

/// A few lines: what is open, since when and by whom, and what to do. Written when the run takes another course and not at each step.
pub fn motd_text(run: &str, by: Option<&str>, at: &Position) -> String {
    let by = by.map(|by| format!(", begun by {by}")).unwrap_or_default();
    let mut lines =
        vec![format!("nodectl: a switch of this node's pod network is open: {} (run {run}{by}).", course(at))];
    if let Some(until) = &at.confirm_by {
        lines.push(format!("It is taken back by itself at {until} unless it is confirmed."));
    }
    match at.course {
        Course::Forward => {
            lines.push("It may be at work right now: `nodectl status` tells, and what to do if not.".into())
        }
        _ => lines.push(format!("{}; `nodectl status` says more.", next(at, false))),
    }
    lines.iter().map(|line| format!("{}\n", wrap(line, 2))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::Cni;

    #[test]
    fn a_login_says_what_is_open_and_what_to_do() {
        let at = |course, confirm_by: Option<&str>| Position {
            from: Cni::Flannel,
            to: Cni::Calico,
            course,
            step: None,
            of: 9,
            title: String::new(),
            done: false,
            since: String::new(),
            failed: None,
            owed: Vec::new(),
            confirm_by: confirm_by.map(str::to_owned),
        };
        let text = motd_text("r1", Some("alice"), &at(Course::Unconfirmed, Some("2026-11-21T04:10:00Z")));
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for words in [
            "flannel -> Calico, done and unconfirmed (run r1, begun by alice)",
            "at 2026-11-21T04:10:00Z unless",
            "`nodectl confirm` keeps it",
        ] {
            assert!(text.contains(words), "no {words:?} in {text}");
        }
        assert!(motd_text("r1", None, &at(Course::Forward, None)).contains("at work right now"));
        assert!(motd_text("r1", None, &at(Course::Owing, None)).contains("`nodectl resume` pays it"));
    }
}
