//! What each step does to the node: read what is there (`before`), do it (`apply`), put back what was there (`undo`).
//!
//! Both `apply` and `undo` are right whatever half of themselves a crash has left behind: doing it again ends where doing it
//! once ends, and undoing what was never done changes nothing. One file a step, or a pair of steps.

mod agent;
mod api;
mod attachment;
mod await_pods;
mod baseline;
mod binaries;
mod bridge;
mod clean;
mod context;
mod continuity;
mod cordon;
mod debts;
mod evict;
mod idle_files;
mod in_place;
mod leases;
pub mod overlay;
mod peer_routes;
mod records;
mod retire;
mod rules;
mod sandboxes;
mod shim;
mod shim_files;
mod units;

use anyhow::Result;
use serde_json::Value;

pub use api::Api;
pub use baseline::missing;
pub use clean::owe_kept_dels;
pub use context::{Context, RunFolder};
pub use continuity::watch_back;
pub use debts::pay;
pub use idle_files::of_before;

use crate::step::{Before, Step};

/// Sees an agent whose start was undone off once more, and removes by ownership what it has made since: kubelet may have
/// started it again before it heard of the label. Its own device goes too, whichever way the overlay had been handed over.
pub fn clean_again(cx: &mut Context) -> Result<()> {
    let log = cx.journal.log()?;
    for (n, step) in cx.plan.steps.iter().enumerate() {
        if let Step::StartAgent(agent) = step
            && log.before(n).is_some()
        {
            if !cx.api.is_dead() {
                agent::await_gone(cx, agent)?;
            }
            clean::remove_all(cx, agent.cni, &agent.scope, &[])?;
        }
    }
    Ok(())
}

/// Reads what the step is about to change.
pub fn before(step: &Step, cx: &mut Context) -> Result<Before> {
    match step {
        Step::PreserveBinaries { dir, names } => binaries::before(cx, dir, names),
        Step::EnableBootUnits { units } | Step::DisableBootUnits { units } => units::before(cx, units),
        Step::InstallShimBinary { to: path, .. } | Step::RemoveShimBinary { path } => {
            shim_files::binary_before(cx, path)
        }
        Step::InstallShimConflist { path, .. } | Step::RemoveShimConflist { path } => {
            shim_files::conflist_before(cx, path)
        }
        Step::SetShimState { .. } | Step::Hold { .. } | Step::Release { .. } => shim::before(cx),
        Step::Cordon | Step::Uncordon => cordon::before(cx),
        Step::StopAgent(_) | Step::StartAgent(_) => agent::before(cx),
        Step::RenameOverlay { from, .. } | Step::DeleteOverlay { link: from, .. } => overlay::before(from),
        Step::MarkNetworkAvailable { .. } => agent::condition_before(cx),
        Step::PrepareBridge { bridge } | Step::MakeBridge { bridge, .. } | Step::SettleBridge { bridge } => {
            bridge::before(bridge)
        }
        Step::GuidePod(pod) | Step::TurnPod(pod) | Step::DetachPod(pod) => in_place::before(cx, pod),
        Step::AttachPod(pod) | Step::UnturnPod(pod) | Step::UnguidePod(pod) => in_place::before(cx, pod),
        Step::ClaimPod(pod) | Step::LeasePod(pod) => records::before(cx, pod),
        Step::Clean { cni, scope } => clean::before(cx, *cni, scope),
        Step::PreserveFiles { .. }
        | Step::ImportAttachments { .. }
        | Step::Baseline { .. }
        | Step::Evict { .. }
        | Step::DisclaimPod(_)
        | Step::HoldPeerRoutes(_)
        | Step::DropPeerRoutes(_)
        | Step::WatchPods { .. }
        | Step::JudgeOutage { .. }
        | Step::KeepFlannelRules { .. }
        | Step::StopSandboxes { .. }
        | Step::SetLeasesAside { .. }
        | Step::Probe { .. }
        | Step::HandOverAttachments { .. }
        | Step::RemoveShimState { .. }
        | Step::AwaitPods { .. } => Ok(Before::Nothing),
    }
}

/// Does the step; what it returns goes into the journal and the report.
pub fn apply(step: &Step, before: &Before, cx: &mut Context) -> Result<Value> {
    match step {
        Step::PreserveBinaries { dir, names } => binaries::apply(cx, dir, names),
        Step::PreserveFiles { files, .. } => idle_files::preserve(cx, files),
        Step::EnableBootUnits { units } => units::enable(cx, units),
        Step::DisableBootUnits { units } => units::disable(cx, units),
        Step::InstallShimBinary { from, to } => shim_files::install_binary(cx, from, to),
        Step::SetShimState { to } => shim::route(cx, *to),
        Step::InstallShimConflist { path, content } => shim_files::install_conflist(cx, path, content),
        Step::ImportAttachments { made_by } => shim::import(cx, *made_by),
        Step::Baseline { targets } => baseline::measure(cx, targets),
        Step::Cordon => cordon::set(cx, true),
        Step::Uncordon => cordon::release(cx),
        Step::Evict { timeout_s, grace_s, .. } => evict::apply(cx, *timeout_s, *grace_s),
        Step::Hold { next } => {
            let held = shim::hold(cx, *next)?;
            sandboxes::as_planned(cx)?;
            Ok(held)
        }
        Step::Release { to } => shim::route(cx, *to),
        Step::StopAgent(agent) => agent::stop(cx, agent),
        Step::StartAgent(agent) => agent::start(cx, agent),
        Step::KeepFlannelRules { rules } => rules::keep(rules),
        Step::StopSandboxes { made_by, spare, .. } => sandboxes::stop_all(cx, *made_by, spare),
        Step::SetLeasesAside { store } => leases::set_aside(cx, store),
        Step::HoldPeerRoutes(held) => peer_routes::hold(held),
        Step::DropPeerRoutes(held) => peer_routes::drop_when_replaced(cx, held),
        Step::WatchPods { flows } => continuity::watch(cx, flows),
        Step::JudgeOutage { max_ms } => continuity::judge(cx, *max_ms),
        Step::PrepareBridge { bridge } => bridge::prepare(bridge),
        Step::GuidePod(pod) => in_place::guide(cx, pod, before),
        Step::TurnPod(pod) => in_place::turn(cx, pod, before),
        Step::DetachPod(pod) => in_place::detach(cx, pod, before),
        Step::ClaimPod(pod) => records::claim(cx, pod),
        Step::DisclaimPod(pod) => records::disclaim(cx, pod),
        Step::LeasePod(pod) => records::lease(cx, pod),
        Step::MakeBridge { bridge, address, mtu } => bridge::make(bridge, *address, *mtu),
        Step::AttachPod(pod) => in_place::attach_anew(cx, pod, before),
        Step::UnturnPod(pod) => in_place::unturn_anew(cx, pod, before),
        Step::UnguidePod(pod) => in_place::unguide_anew(cx, pod, before),
        Step::SettleBridge { bridge } => bridge::settle(bridge),
        Step::RenameOverlay { from, to } => overlay::rename(from, to, before),
        Step::DeleteOverlay { link, .. } => overlay::delete(link),
        Step::MarkNetworkAvailable { by } => agent::mark_available(cx, *by),
        Step::Probe { via, targets } => baseline::verify(cx, *via, targets),
        Step::AwaitPods { made_by, pods, timeout_s } => await_pods::apply(cx, *made_by, pods, *timeout_s),
        Step::Clean { .. } => clean::apply(cx, before),
        Step::RemoveShimConflist { path } => shim_files::remove_conflist(cx, path),
        Step::HandOverAttachments { conflist, .. } => retire::hand_over(cx, conflist),
        Step::RemoveShimBinary { path } => shim_files::remove_binary(cx, path),
        Step::RemoveShimState { .. } => retire::remove_state(cx),
    }
}

/// Puts back what was there before the step. What needs the API server and does not reach it becomes a debt.
pub fn undo(step: &Step, before: &Before, cx: &mut Context) -> Result<()> {
    match step {
        Step::PreserveBinaries { dir, .. } => binaries::undo(cx, dir, before),
        Step::PreserveFiles { files, .. } => idle_files::put_back(cx, files),
        Step::EnableBootUnits { units } | Step::DisableBootUnits { units } => units::undo(cx, units, before),
        Step::InstallShimBinary { to: path, .. } | Step::RemoveShimBinary { path } => {
            shim_files::undo(cx, path, before)
        }
        Step::InstallShimConflist { path, .. } => shim_files::undo(cx, path, before),
        Step::RemoveShimConflist { path } => shim_files::undo_remove_conflist(cx, path, before),
        Step::HandOverAttachments { conflist, .. } => retire::undo_hand_over(cx, conflist),
        Step::RemoveShimState { .. } => retire::undo_remove_state(cx),
        Step::SetShimState { .. } | Step::Hold { .. } => shim::undo(cx, before),
        Step::Release { to } => sandboxes::undo_release(cx, *to),
        Step::Cordon | Step::Uncordon => cordon::undo(cx, before),
        Step::StopAgent(agent) => agent::undo_stop(cx, agent, before),
        Step::StartAgent(agent) => agent::undo_start(cx, agent, before),
        Step::SetLeasesAside { store } => leases::put_back(cx, store),
        Step::HoldPeerRoutes(held) => peer_routes::remove(held),
        Step::DropPeerRoutes(held) => peer_routes::hold(held).map(drop),
        Step::PrepareBridge { .. } | Step::SettleBridge { .. } => bridge::undo(before),
        Step::GuidePod(pod) => in_place::unguide(cx, pod, before),
        Step::TurnPod(pod) => in_place::unturn(cx, pod, before),
        Step::DetachPod(pod) => in_place::attach(cx, pod, before),
        Step::ClaimPod(pod) => records::unclaim(cx, pod, before),
        Step::DisclaimPod(pod) => records::reclaim(cx, pod),
        Step::LeasePod(pod) => records::unlease(cx, pod, before),
        Step::MakeBridge { bridge, .. } => bridge::undo_make(bridge, before),
        Step::AttachPod(pod) => in_place::detach_again(cx, pod, before),
        Step::UnturnPod(pod) => in_place::turn_again(cx, pod, before),
        Step::UnguidePod(pod) => in_place::guide_again(cx, pod, before),
        Step::RenameOverlay { from, to } => overlay::undo(from, Some(to), before),
        Step::DeleteOverlay { link, .. } => overlay::undo(link, None, before),
        Step::MarkNetworkAvailable { .. } => agent::undo_condition(cx, before),
        Step::Probe { .. } => baseline::undo(cx),
        Step::Clean { .. } => clean::undo(cx, before),
        Step::ImportAttachments { .. }
        | Step::Baseline { .. }
        | Step::JudgeOutage { .. }
        | Step::Evict { .. }
        | Step::KeepFlannelRules { .. }
        | Step::StopSandboxes { .. }
        | Step::AwaitPods { .. } => Ok(()),
        Step::WatchPods { .. } => continuity::undo(cx),
    }
}
