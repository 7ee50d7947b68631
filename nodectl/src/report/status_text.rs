//! Where the node stands, in a few lines. What could not be looked at is said to be so.

use super::{bold, wrap};
use crate::cni::{Cni, NODE_LABEL};
use crate::facts::Facts;
use crate::journal::{Course, Position};
use crate::plan::{Arrival, arrival, current_cni};

/// Columns before a value.
const INDENT: usize = 13;

/// The node's CNI, its agents, its overlay, its shim, and what is open.
pub fn status_text(facts: &Facts) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| text.push_str(&format!("{:<12} {value}\n", format!("{name}:")));
    let node = facts.cluster.as_ref().map_or(facts.machine.hostname.clone(), |c| c.node.clone());
    row("node", bold(&node));
    row("CNI", bold(&wrap(&cni(facts), INDENT)));
    row("agents", unread(facts, "processes").unwrap_or_else(|| agents(facts)));
    for (link, vxlan) in facts.network.links.iter().filter_map(|l| l.vxlan.as_ref().map(|v| (l, v))) {
        row(
            "overlay",
            format!("{} (VNI {}, port {}, MTU {}, {})", link.name, vxlan.vni, vxlan.port, link.mtu, link.mac),
        );
    }
    row("shim", unread(facts, "shim").unwrap_or_else(|| shim(facts)));
    match &facts.cluster {
        Some(view) => {
            let label = view.labels.get(NODE_LABEL).map_or("absent", String::as_str);
            row("label", format!("{NODE_LABEL}={label}"));
            let cordon = if view.unschedulable { "cordoned" } else { "schedulable" };
            row("scheduling", cordon.into());
        }
        None => row("API server", facts.unobserved.get("cluster").cloned().unwrap_or_else(|| "does not answer".into())),
    }
    if let Some(kubelet) =
        facts.units.get("kubelet.service").filter(|u| u.active != "active" || facts.runs.open.is_some())
    {
        row("kubelet", kubelet.active.clone());
    }
    runs(facts).into_iter().for_each(|(name, value)| row(name, wrap(&value, INDENT)));
    let shown = ["processes", "shim", "runs", "cluster", "the open run's journal"];
    for (part, why) in facts.unobserved.iter().filter(|(part, _)| !shown.contains(&part.as_str())) {
        row("not seen", wrap(&format!("{part}: {why}"), INDENT));
    }
    if facts.machine.uid != 0 {
        row("not root", "what only root may read is not seen. To fix it: run it as root, e.g. with sudo".into());
    }
    text
}

/// Why a part could not be looked at.
fn unread(facts: &Facts, part: &str) -> Option<String> {
    facts.unobserved.get(part).map(|why| wrap(&format!("could not be looked at: {why}"), INDENT))
}

fn cni(facts: &Facts) -> String {
    if let Some(at) = facts.runs.position.as_ref().filter(|at| is_between(at)) {
        let pods = match facts.shim.mode.as_deref() {
            Some("hold") => "wait".to_owned(),
            Some(mode) => format!("get {mode}"),
            None => current_cni(facts).map_or("get an unknown one".to_owned(), |cni| format!("get {}", cni.name())),
        };
        return format!("between {} and {}: new pods {pods}", at.from, at.to);
    }
    let Some(cni) = current_cni(facts) else {
        return facts.unobserved.get("files").map_or("unknown".into(), |why| format!("could not be looked at: {why}"));
    };
    match arrival(facts, cni) {
        Arrival::Half(amiss) => format!("new pods get {cni}, but: {}", amiss.join("; ")),
        Arrival::There | Arrival::Elsewhere => cni.to_string(),
    }
}

/// Whether the node is neither where it was nor where it is to be.
fn is_between(at: &Position) -> bool {
    at.from != at.to && matches!(at.course, Course::Forward | Course::Back)
}

fn agents(facts: &Facts) -> String {
    let agents: Vec<&str> =
        [Cni::Flannel, Cni::Calico].iter().map(|c| c.process()).filter(|name| facts.runs(name)).collect();
    if agents.is_empty() { "none runs".into() } else { agents.join(", ") }
}

fn shim(facts: &Facts) -> String {
    let Some(mode) = &facts.shim.mode else { return "not installed".into() };
    let records: Vec<String> =
        facts.shim.attachments.iter().map(|(cni, ids)| format!("{} by {cni}", ids.len())).collect();
    let pending = facts.shim.pending.len();
    let kept = if pending > 0 { format!(", {pending} DELs pending") } else { String::new() };
    format!("{mode}; attachments: {}{kept}", if records.is_empty() { "none".into() } else { records.join(", ") })
}

/// The open run, where it stands, and what to do next; or how many there were.
fn runs(facts: &Facts) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    if let Some(why) = facts.unobserved.get("runs") {
        return vec![("runs", format!("could not be looked at, so one may be open: {why}"))];
    }
    let Some(run) = &facts.runs.open else {
        rows.push(("runs", format!("{} closed, none open", facts.runs.closed.len())));
        rows.extend(facts.runs.worker.map(|pid| ("at work", format!("a nodectl (pid {pid})"))));
        return rows;
    };
    let Some(at) = &facts.runs.position else {
        let why = facts.unobserved.get("the open run's journal").map_or("it has ended", String::as_str);
        rows.push(("open run", format!("{run}: {why}")));
        rows.push(("next", "`nodectl resume` closes it, or says what to do".into()));
        return rows;
    };
    rows.push(("open run", format!("{run}, {}", course(at))));
    rows.push(("step", step(at)));
    rows.extend(at.failed.as_ref().map(|why| ("failed", why.clone())));
    rows.extend(at.owed.iter().map(|debt| ("owes", debt.clone())));
    rows.push(("at work", facts.runs.worker.map_or("no nodectl".into(), |pid| format!("a nodectl (pid {pid})"))));
    rows.extend(at.confirm_by.as_ref().map(|until| ("confirm by", format!("{until}, or it is taken back by itself"))));
    rows.push(("next", next(at, facts.runs.worker.is_some())));
    rows
}

pub(super) fn course(at: &Position) -> String {
    let what = if at.from == at.to { "the shim's removal".to_owned() } else { format!("{} -> {}", at.from, at.to) };
    match at.course {
        Course::Forward => what,
        Course::Back => format!("{what}, on its way back"),
        Course::Owing => format!("{what}, taken back; something is owed"),
        Course::Unconfirmed => format!("{what}, done and unconfirmed"),
    }
}

fn step(at: &Position) -> String {
    let since = &at.since;
    match (at.step, at.course) {
        (None, Course::Unconfirmed) => format!("all steps are done, since {since}"),
        (None, Course::Owing) => format!("all steps are undone, since {since}"),
        (None, _) => format!("none was begun, since {since}"),
        (Some(n), Course::Back) => format!("{n} of {} is undone next: {}, since {since}", at.of, at.title),
        (Some(n), _) if at.done => format!("{n} of {} is done: {}, since {since}", at.of, at.title),
        (Some(n), _) => format!("{n} of {} was begun: {}, since {since}", at.of, at.title),
    }
}

pub(super) fn next(at: &Position, at_work: bool) -> String {
    match at.course {
        _ if at_work => "wait for it; `nodectl revert --take-over` stops it and takes the run back".into(),
        Course::Forward => "`nodectl resume` finishes it, `nodectl revert` takes it back".into(),
        Course::Back => "`nodectl revert` goes on with the way back".into(),
        Course::Unconfirmed => "`nodectl confirm` keeps it, `nodectl revert` takes it back".into(),
        Course::Owing => "`nodectl resume` pays it, once the API server answers".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Unit;

    fn open(course: Course, owed: &[&str]) -> Facts {
        let mut facts = Facts::default();
        facts.shim.mode = Some("hold".into());
        facts.units.insert("kubelet.service".into(), Unit { active: "inactive".into(), ..Unit::default() });
        facts.runs.open = Some("r1".into());
        facts.runs.position = Some(Position {
            from: Cni::Flannel,
            to: Cni::Calico,
            course,
            step: matches!(course, Course::Forward | Course::Back).then_some(11),
            of: 21,
            title: "stop flannel".into(),
            done: false,
            since: "2026-11-21T04:00:00Z".into(),
            failed: None,
            confirm_by: (course == Course::Unconfirmed).then(|| "2026-11-21T04:10:00Z".to_owned()),
            owed: owed.iter().map(|debt| (*debt).to_owned()).collect(),
        });
        facts
    }

    fn says(facts: &Facts, words: &[&str]) {
        let text = status_text(facts).split_whitespace().collect::<Vec<_>>().join(" ");
        words.iter().for_each(|words| assert!(text.contains(words), "no {words:?} in {text}"));
    }

    #[test]
    fn an_open_run_is_told_with_its_step_and_what_to_do() {
        let mut facts = open(Course::Forward, &[]);
        let step = "step: 11 of 21 was begun: stop flannel, since 2026-11-21T04:00:00Z";
        says(&facts, &["between flannel and Calico: new pods wait", "r1, flannel -> Calico", step]);
        says(
            &facts,
            &["at work: no nodectl", "kubelet: inactive", "next: `nodectl resume` finishes it, `nodectl revert`"],
        );
        facts.runs.worker = Some(7);
        says(&facts, &["at work: a nodectl (pid 7)", "`nodectl revert --take-over`"]);
        let back = open(Course::Back, &[]);
        says(&back, &["on its way back", "11 of 21 is undone next", "`nodectl revert` goes on with the way back"]);
        let owing = open(Course::Owing, &["uncordon the node", "start kubelet.service"]);
        says(&owing, &["owes: uncordon the node", "owes: start kubelet.service", "`nodectl resume` pays it"]);
        assert!(!status_text(&owing).contains("takes it back"), "{}", status_text(&owing));
        let unconfirmed = open(Course::Unconfirmed, &[]);
        says(
            &unconfirmed,
            &["done and unconfirmed", "confirm by: 2026-11-21T04:10:00Z, or", "`nodectl confirm` keeps it"],
        );
    }

    #[test]
    fn what_could_not_be_looked_at_is_said_to_be_so() {
        let mut facts = Facts::default();
        facts.machine.uid = 1000;
        for part in ["runs", "shim", "files", "processes", "firewall"] {
            facts.unobserved.insert(part.into(), "permission denied".into());
        }
        says(
            &facts,
            &["CNI: could not be looked at", "shim: could not be looked at", "agents: could not be looked at"],
        );
        says(&facts, &["so one may be open: permission denied", "not seen: firewall: permission denied", "sudo"]);
        let text = status_text(&facts);
        assert!(
            !text.contains("none open") && !text.contains("not installed") && !text.contains("none runs"),
            "{text}"
        );
    }
}
