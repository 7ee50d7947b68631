//! Steps in words: their names, what will be done, and what undoing it means.

use super::Step;

impl Step {
    /// The step's name, as in the journal.
    pub fn name(&self) -> &'static str {
        match self {
            Step::PreserveBinaries { .. } => "preserve-binaries",
            Step::PreserveFiles { .. } => "preserve-files",
            Step::EnableBootUnits { .. } => "enable-boot-units",
            Step::InstallShimBinary { .. } => "install-shim-binary",
            Step::SetShimState { .. } => "set-shim-state",
            Step::InstallShimConflist { .. } => "install-shim-conflist",
            Step::ImportAttachments { .. } => "import-attachments",
            Step::Baseline { .. } => "baseline",
            Step::Cordon => "cordon",
            Step::Evict { .. } => "evict",
            Step::Hold { .. } => "hold",
            Step::StopAgent(_) => "stop-agent",
            Step::KeepFlannelRules { .. } => "keep-flannel-rules",
            Step::StopSandboxes { .. } => "stop-sandboxes",
            Step::SetLeasesAside { .. } => "set-leases-aside",
            Step::HoldPeerRoutes(_) => "hold-peer-routes",
            Step::DropPeerRoutes(_) => "drop-peer-routes",
            Step::WatchPods { .. } => "watch-pods",
            Step::JudgeOutage { .. } => "judge-outage",
            Step::PrepareBridge { .. } => "prepare-bridge",
            Step::GuidePod(_) => "guide-pod",
            Step::TurnPod(_) => "turn-pod",
            Step::DetachPod(_) => "detach-pod",
            Step::ClaimPod(_) => "claim-pod",
            Step::DisclaimPod(_) => "disclaim-pod",
            Step::LeasePod(_) => "lease-pod",
            Step::MakeBridge { .. } => "make-bridge",
            Step::AttachPod(_) => "attach-pod",
            Step::UnturnPod(_) => "unturn-pod",
            Step::UnguidePod(_) => "unguide-pod",
            Step::SettleBridge { .. } => "settle-bridge",
            Step::RenameOverlay { .. } => "rename-overlay",
            Step::DeleteOverlay { .. } => "delete-overlay",
            Step::StartAgent(_) => "start-agent",
            Step::MarkNetworkAvailable { .. } => "mark-network-available",
            Step::Probe { .. } => "probe",
            Step::Release { .. } => "release",
            Step::AwaitPods { .. } => "await-pods",
            Step::Uncordon => "uncordon",
            Step::Clean { .. } => "clean",
            Step::RemoveShimConflist { .. } => "remove-shim-conflist",
            Step::HandOverAttachments { .. } => "hand-over-attachments",
            Step::RemoveShimBinary { .. } => "remove-shim-binary",
            Step::RemoveShimState { .. } => "remove-shim-state",
            Step::DisableBootUnits { .. } => "disable-boot-units",
        }
    }

    /// One line for people: what will be done.
    pub fn title(&self) -> String {
        match self {
            Step::PreserveBinaries { names, dir } => {
                format!("keep copies of {} plugin binaries of {dir}", names.len())
            }
            Step::PreserveFiles { cni, files } => {
                format!("keep copies of {} of an earlier {cni}", count(files.len(), "file"))
            }
            Step::EnableBootUnits { .. } => "enable the boot-time units, in case of a reboot".into(),
            Step::InstallShimBinary { to, .. } => format!("install {to}"),
            Step::SetShimState { to } => format!("route new pods through the shim to {to}"),
            Step::InstallShimConflist { path, .. } => format!("put {path} in front"),
            Step::ImportAttachments { made_by } => format!("record the sandboxes that {made_by} made"),
            Step::Baseline { targets } => format!("measure what answers now ({})", count(targets.peers.len(), "peer")),
            Step::Cordon => "cordon the node".into(),
            Step::Evict { pods, .. } => format!("evict {}", count(pods.len(), "pod")),
            Step::Hold { .. } => "hold new attachments".into(),
            Step::StopAgent(a) => format!("stop {} and wait until it is gone", a.cni),
            Step::KeepFlannelRules { .. } => "keep flannel's rules until Calico's stand".into(),
            Step::SetLeasesAside { store } => format!("move {store} aside, which holds no lease any more"),
            Step::HoldPeerRoutes(held) => format!("keep the routes to other nodes in table {}", held.table),
            Step::DropPeerRoutes(held) => format!("remove table {}, once the agent's routes stand", held.table),
            Step::WatchPods { flows } => watching(flows.len()),
            Step::JudgeOutage { max_ms: None } => "see what they have missed".into(),
            Step::JudgeOutage { max_ms: Some(ms) } => format!("see that none was silent for more than {ms} ms"),
            Step::PrepareBridge { bridge } => format!("make {bridge} ready for pods that are led around it"),
            Step::GuidePod(p) => format!("lead this host to {} over its own interface", p.pod),
            Step::TurnPod(p) => format!("turn {} towards this host", p.pod),
            Step::DetachPod(p) => format!("take {} out of the bridge, as {}", p.pod, p.interface),
            Step::ClaimPod(p) => format!("record {} as Calico's", p.pod),
            Step::DisclaimPod(p) => format!("take {} out of Calico's records", p.pod),
            Step::LeasePod(p) => format!("record {} as flannel's", p.pod),
            Step::MakeBridge { bridge, address, .. } => format!("make {bridge} with {address}"),
            Step::AttachPod(p) => format!("put {} into the bridge", p.pod),
            Step::UnturnPod(p) => format!("turn {} towards the bridge", p.pod),
            Step::UnguidePod(p) => format!("let the bridge lead to {}", p.pod),
            Step::SettleBridge { bridge } => format!("give {bridge} its usual parameters"),
            Step::StopSandboxes { pods, .. } => stopping(pods),
            Step::RenameOverlay { from, to } => format!("rename {from} to {to}"),
            Step::DeleteOverlay { link, why } => format!("delete {link}: {why}"),
            Step::StartAgent(a) => format!("start {} and wait until it serves", a.cni),
            Step::MarkNetworkAvailable { .. } => "mark the node's network available".into(),
            Step::Probe { targets, via } => {
                format!("verify through {via}: {}, host, service", count(targets.peers.len(), "peer"))
            }
            Step::Release { to } => format!("release the hold: new pods get {to}"),
            Step::AwaitPods { .. } => "wait for this node's pods, verify one".into(),
            Step::Uncordon => "uncordon the node".into(),
            Step::Clean { cni, .. } => format!("remove what {cni} left on this node"),
            Step::RemoveShimConflist { path } => format!("take {path} away"),
            Step::HandOverAttachments { pods, network, .. } => {
                format!("hand the cached results of {} over to the network {network}", count(pods.len(), "pod"))
            }
            Step::RemoveShimBinary { path } => format!("remove {path}"),
            Step::RemoveShimState { folder } => format!("move {folder} aside"),
            Step::DisableBootUnits { .. } => "disable the boot-time units".into(),
        }
    }

    /// One line for people: what undoing it does; `None` where there is nothing to undo.
    pub fn undo_title(&self) -> Option<String> {
        Some(match self {
            Step::PreserveBinaries { .. } => "put back the plugin binaries that were overwritten".into(),
            Step::PreserveFiles { cni, .. } => format!("put back the files of an earlier {cni} as they were"),
            Step::EnableBootUnits { .. } => "disable the boot-time units".into(),
            Step::InstallShimBinary { to, .. } => format!("remove {to}"),
            Step::SetShimState { .. } => "remove the shim's state and records".into(),
            Step::InstallShimConflist { path, .. } => format!("remove {path}"),
            Step::Cordon | Step::Uncordon => "make the node schedulable or not, as it was".into(),
            Step::Hold { .. } => "route new pods as before, end the hold".into(),
            Step::StopAgent(a) => format!("label the node for {} again and wait until it serves", a.cni),
            Step::RenameOverlay { from, to } => format!("rename {to} back to {from}, with exactly what hung on it"),
            Step::DeleteOverlay { link, .. } => format!("make {link} again, with exactly what hung on it"),
            Step::SetLeasesAside { store } => format!("put {store} back"),
            Step::HoldPeerRoutes(held) => format!("remove table {}", held.table),
            Step::DropPeerRoutes(held) => format!("keep the routes to other nodes in table {} again", held.table),
            Step::PrepareBridge { bridge } => format!("give {bridge} its parameters back"),
            Step::GuidePod(p) => format!("let the bridge lead to {} again", p.pod),
            Step::TurnPod(p) => format!("turn {} towards the bridge again", p.pod),
            Step::DetachPod(p) => format!("put {} back into the bridge", p.pod),
            Step::ClaimPod(p) => format!("record {} as flannel's again", p.pod),
            Step::DisclaimPod(p) => format!("put {} into Calico's records again", p.pod),
            Step::LeasePod(p) => format!("record {} as Calico's again", p.pod),
            Step::MakeBridge { bridge, .. } => format!("remove {bridge}, or what was done to it"),
            Step::AttachPod(p) => format!("take {} out of the bridge again, as {}", p.pod, p.interface),
            Step::UnturnPod(p) => format!("turn {} towards this host again", p.pod),
            Step::UnguidePod(p) => format!("lead this host to {} over its own interface again", p.pod),
            Step::SettleBridge { bridge } => format!("make {bridge} ready again for pods that are led around it"),
            Step::StartAgent(a) => format!("see {} off and remove what it made, by ownership", a.cni),
            Step::MarkNetworkAvailable { .. } => "put the Node's condition back".into(),
            Step::Release { to } => format!("hold new attachments, stop the sandboxes that {to} made"),
            Step::Clean { cni, .. } => format!("put back what {cni} had left"),
            Step::DisableBootUnits { .. } => "enable the boot-time units".into(),
            Step::RemoveShimConflist { path } => format!("put {path} in front again"),
            Step::HandOverAttachments { .. } => "give the cached results back to the shim".into(),
            Step::RemoveShimBinary { path } => format!("install {path} again"),
            Step::RemoveShimState { folder } => format!("put {folder} back"),
            Step::ImportAttachments { .. }
            | Step::Baseline { .. }
            | Step::Evict { .. }
            | Step::KeepFlannelRules { .. }
            | Step::StopSandboxes { .. }
            | Step::WatchPods { .. }
            | Step::JudgeOutage { .. }
            | Step::Probe { .. }
            | Step::AwaitPods { .. } => return None,
        })
    }
}

fn watching(named: usize) -> String {
    let pods = "begin to ask the pods that are re-plumbed, and from them";
    if named == 0 { pods.to_owned() } else { format!("{pods}, and {}", count(named, "named flow")) }
}

fn stopping(pods: &[String]) -> String {
    if pods.is_empty() {
        return "stop the sandboxes of pods born since the plan".into();
    }
    format!("stop the sandboxes that stay ({}), with their grace; kubelet rebuilds them", count(pods.len(), "pod"))
}

/// "1 pod", "2 pods".
pub(crate) fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// The first few of many names.
pub(crate) fn some(names: &[String]) -> String {
    const SHOWN: usize = 5;
    match names.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("{} and {more} more", names.get(..SHOWN).unwrap_or_default().join(", ")),
        _ => names.join(", "),
    }
}
