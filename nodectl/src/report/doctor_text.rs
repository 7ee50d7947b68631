//! What `doctor` found: for people, for Nagios, for Prometheus.

use super::{bold, wrap};
use crate::cni::Cni;
use crate::doctor::{CHECKS, Finding, Severity, State};
use crate::facts::Facts;
use crate::journal::Course;
use crate::plan::current_cni;
use crate::step::words::count;

/// How many objects of a finding are listed; all are in the JSON document.
const SHOWN: usize = 5;

/// A paragraph for each finding, the worst first. `silent`: who of the API server and the runtime does not answer.
pub fn doctor_text(findings: &[Finding], silent: &[&str]) -> String {
    let mut text = match findings.len() {
        0 => "Nothing is wrong here, as far as can be seen.\n".to_owned(),
        n => format!("{}\n", bold(&format!("{} on this node", count(n, "finding")))),
    };
    for f in findings {
        text.push_str(&format!("\n{} {}\n", bold(&format!("[{}] {}:", f.severity.name(), f.id)), f.what));
        let mut row = |name: &str, value: &str| text.push_str(&format!("  {name:<11} {}\n", wrap(value, 14)));
        row("causes", &f.causes);
        row("evidence", &f.evidence);
        for object in f.objects.iter().take(SHOWN) {
            row("", &format!("- {object}"));
        }
        if f.objects.len() > SHOWN {
            row("", &format!("... and {} more (--output json lists them)", f.objects.len() - SHOWN));
        }
        // Not wrapped: it is there to be copied.
        text.push_str(&format!("  {:<11} {}\n", "to mend it", f.command));
    }
    for part in silent {
        let (who, what) = match *part {
            "cluster" => ("The API server does not answer", "what only it knows was not looked at"),
            _ => (
                "The container runtime does not answer",
                "leases, devices and port mappings of dead pods were not looked for",
            ),
        };
        text.push_str(&format!("\n{who}: {what}.\n"));
    }
    text
}

/// A line with a state, numbers behind a bar, then a line for each finding.
pub fn doctor_nagios(findings: &[Finding]) -> String {
    let of = |severity: Severity| findings.iter().filter(|f| f.severity == severity).count();
    let (critical, warning, notice) = (of(Severity::Critical), of(Severity::Warning), of(Severity::Notice));
    let state = match State::of(findings) {
        State::Ok => "OK",
        State::Warning => "WARNING",
        State::Critical => "CRITICAL",
        State::Unknown => "UNKNOWN",
    };
    let names: Vec<&str> = findings.iter().map(|f| f.id.as_str()).collect();
    let said = if names.is_empty() { "no findings".into() } else { names.join(", ") };
    let mut text = format!("NODECTL {state} - {said} | critical={critical} warning={warning} notice={notice}\n");
    for f in findings {
        // A bar would begin more numbers.
        let line = format!("[{}] {}: {}. To mend it: {}", f.severity.name(), f.id, f.what, f.command);
        text.push_str(&format!("{}\n", line.replace('|', "/")));
    }
    text
}

/// Every check with the number of objects that it found, 0 included, so that an alert can tell "clean" from "not run".
pub fn doctor_prometheus(findings: &[Finding], facts: &Facts) -> String {
    let mut text = String::from(
        "# HELP nodectl_doctor_objects Objects found by each check of nodectl doctor.\n# TYPE nodectl_doctor_objects gauge\n",
    );
    for check in &CHECKS {
        let n = findings.iter().find(|f| f.id == check.id).map_or(0, |f| f.objects.len());
        text.push_str(&format!(
            "nodectl_doctor_objects{{check=\"{}\",severity=\"{}\"}} {n}\n",
            check.id,
            check.severity.name()
        ));
    }
    text.push_str("# HELP nodectl_doctor_findings Findings of nodectl doctor.\n# TYPE nodectl_doctor_findings gauge\n");
    for severity in Severity::ALL {
        let n = findings.iter().filter(|f| f.severity == severity).count();
        text.push_str(&format!("nodectl_doctor_findings{{severity=\"{}\"}} {n}\n", severity.name()));
    }
    text.push_str(&format!(
        "# HELP nodectl_doctor_timestamp_seconds When the node was looked at.\n# TYPE nodectl_doctor_timestamp_seconds gauge\n\
         nodectl_doctor_timestamp_seconds {}\n",
        facts.observed_at
    ));
    text + &node_prometheus(facts)
}

/// The node's CNI, its open run, and the DELs that are kept.
fn node_prometheus(facts: &Facts) -> String {
    let mut text = String::from("# HELP nodectl_cni The CNI that new pods get.\n# TYPE nodectl_cni gauge\n");
    let now = current_cni(facts);
    for cni in [Cni::Flannel, Cni::Calico] {
        text.push_str(&format!("nodectl_cni{{name=\"{}\"}} {}\n", cni.name(), u8::from(now == Some(cni))));
    }
    let course = facts.runs.position.as_ref().map(|at| at.course);
    let open = facts.runs.open.is_some();
    text.push_str("# HELP nodectl_run_open A run is open, by its course.\n# TYPE nodectl_run_open gauge\n");
    for (name, is) in [
        ("forward", course == Some(Course::Forward)),
        ("back", course == Some(Course::Back)),
        ("owing", course == Some(Course::Owing)),
        ("unconfirmed", course == Some(Course::Unconfirmed)),
        ("unknown", open && course.is_none()),
    ] {
        text.push_str(&format!("nodectl_run_open{{course=\"{name}\"}} {}\n", u8::from(open && is)));
    }
    text.push_str(&format!(
        "# HELP nodectl_pending_dels DELs that failed and are kept.\n# TYPE nodectl_pending_dels gauge\n\
         nodectl_pending_dels {}\n",
        facts.shim.pending.len()
    ));
    text
}
