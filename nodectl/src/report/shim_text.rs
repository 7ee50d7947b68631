//! The shim in a few lines.

use super::{bold, wrap};
use crate::clock;
use crate::reap::Reaped;
use crate::shim::ShimView;
use crate::step::words::count;
use crate::variant;

/// Where new pods go, what the shim remembers, what it still has to do, what still needs it.
pub fn shim_text(view: &ShimView, now_ms: u64) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| text.push_str(&format!("{:<13} {value}\n", format!("{name}:")));
    let ago = |since: u64| format!("{} ago", clock::spent(now_ms.saturating_sub(since)));
    row("shim", if view.installed { format!("in front, {}", view.conflist) } else { "not in front".into() });
    match &view.state {
        Some(state) => {
            row("new pods", format!("{}, since {}", bold(&variant::name(state.mode)), ago(state.since_ms)));
            if let Some(owner) = &state.owner {
                let life = if owner.is_alive() { "runs" } else { "is gone, so the hold has ended" };
                row("held by", format!("run {}, which {life}", owner.run));
            }
        }
        None => row("new pods", view.cni.map_or("unknown".into(), |cni| format!("{cni} (no state yet)"))),
    }
    let by_cni: Vec<String> = view.by_cni().iter().map(|(cni, n)| format!("{n} by {cni}")).collect();
    row("attachments", if by_cni.is_empty() { "none".into() } else { by_cni.join(", ") });
    for a in &view.attachments {
        let phase = variant::name(a.phase);
        let gone = if a.alive == Some(false) { ", unknown to the runtime" } else { "" };
        let sandbox: String = a.container.chars().take(13).collect();
        row("", format!("{} {} {sandbox} {}: {phase} {}{gone}", a.cni, a.name(), a.interface, ago(a.since_ms)));
    }
    row("pending DELs", view.pending.len().to_string());
    for p in &view.pending {
        let tries = if p.attempts == 1 { "1 try".to_owned() } else { format!("{} tries", p.attempts) };
        let name = p.pod.clone().unwrap_or_else(|| p.container.clone());
        row("", format!("{name}: {tries}, the last {}: {}", ago(p.tried_ms), wrap(&p.error, 14)));
    }
    row("waiting ADDs", view.waiting.len().to_string());
    for w in &view.waiting {
        row("", format!("{} since {}", w.pod.clone().unwrap_or_else(|| w.container.clone()), ago(w.since_ms)));
    }
    view.problems().iter().for_each(|problem| row("problem", wrap(problem, 14)));
    if view.installed {
        let needs = view.needed_for();
        row("retire", if needs.is_empty() { "nothing needs the shim any more".into() } else { "not yet:".into() });
        needs.iter().for_each(|need| row("", wrap(need, 14)));
    }
    text
}

/// What was reaped, in a few lines.
pub fn reaped_text(reaped: &Reaped) -> String {
    let mut text = match reaped.finished.len() {
        0 => "No DEL was finished.\n".to_owned(),
        n => format!("{} finished.\n", count(n, "DEL")),
    };
    if reaped.finished.is_empty() && reaped.left.is_empty() {
        text =
            "Nothing to do: no DEL is pending, and the runtime knows every sandbox that the shim remembers.\n".into();
    }
    for left in &reaped.left {
        text.push_str(&format!("Left: {} of {}: {}\n", left.interface, left.container, wrap(&left.why, 2)));
    }
    if reaped.runtime_silent {
        text.push_str("The container runtime does not answer, so records of sandboxes that it has forgotten were not looked for.\n");
    }
    text
}
