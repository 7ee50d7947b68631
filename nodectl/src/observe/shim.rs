//! The shim's own folder and what the runtime's cache says of it, in one [`ShimView`].

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cni_spec::conflist::{List, TYPE};
use cni_store::backends::Backends;
use cni_store::pending::Pending;
use cni_store::record::{Pod, Record};
use cni_store::state::{Mode, State};
use serde_json::Value;

use crate::cni::Cni;
use crate::facts::Facts;
use crate::host::{Host, files};
use crate::plan::SHIM_CONFLIST;
use crate::shim::{Attachment, Native, PendingDel, ShimView, WaitingAdd};

/// All that can be told of the shim, with what was observed of the rest of the node.
pub fn shim_view(host: &Host, facts: &Facts) -> Result<ShimView> {
    let paths = cni_store::Paths::under(host.root());
    let join = |dir: &str, name: &str| Path::new(dir).join(name).display().to_string();
    let conflist = join(&facts.files.conf_dir, SHIM_CONFLIST);
    let binary = join(&facts.files.bin_dir, TYPE);
    let (state, lost_state) = match State::load(&paths) {
        Ok(state) => (state, None),
        Err(_) => (None, Some(paths.state().display().to_string())),
    };
    let mut unreadable = Vec::new();
    let (records, torn) = Record::list(&paths)?;
    let (pending, torn_pending) = Pending::list(&paths)?;
    unreadable.extend(torn.iter().chain(&torn_pending).map(|path| path.display().to_string()));
    let cni = cni(facts, state.as_ref());
    let native = cni.and_then(|cni| native(host, &backends(facts), cni));
    let living: Option<BTreeSet<&str>> =
        facts.runtime.as_ref().map(|runtime| runtime.sandboxes.iter().map(|s| s.id.as_str()).collect());
    let alive = |id: &str| living.as_ref().map(|living| living.contains(id));
    let recorded: BTreeSet<&str> = records.iter().map(|r| r.container_id.as_str()).collect();
    let unrecorded = cached_through_the_shim(&paths)
        .into_iter()
        .filter(|id| !recorded.contains(id.as_str()) && alive(id) == Some(true))
        .collect();
    Ok(ShimView {
        installed: facts.files.conf_names.iter().any(|name| name == SHIM_CONFLIST),
        has_binary: files::exists(&host.path(&binary)),
        outdated: facts.shim.outdated,
        ahead: facts.files.conf_names.iter().filter(|name| name.as_str() < SHIM_CONFLIST).cloned().collect(),
        attachments: records.iter().map(|r| Attachment::new(r, native.as_ref(), alive(&r.container_id))).collect(),
        pending: pending.iter().map(pending_del).collect(),
        waiting: cni_store::holds::list(&paths)?.into_iter().map(waiting_add).collect(),
        runtime_answers: living.is_some(),
        conflist,
        binary,
        state,
        cni,
        native,
        lost_state,
        unreadable,
        unrecorded,
    })
}

/// The two conflists behind the shim, as the node names them: as in the shim's own conflist, else by their usual names.
pub fn backends(facts: &Facts) -> Backends {
    let list = facts.files.confs.get(SHIM_CONFLIST);
    let entry = list.map(|list| &list["plugins"][0]["backends"]);
    let usual = Backends::default();
    let path = |name: &str, usual: &Path| {
        entry.and_then(|all| all[name].as_str()).map_or_else(|| usual.to_owned(), Into::into)
    };
    Backends {
        network: list.map(network_name).unwrap_or_default(),
        flannel: path("flannel", &usual.flannel),
        calico: path("calico", &usual.calico),
    }
}

/// The name of a conflist's network, if files can be called by it.
pub fn network_name(list: &Value) -> String {
    list["name"].as_str().filter(|name| !name.contains('/')).unwrap_or_default().to_owned()
}

/// The CNI that new pods get, or got before the hold; without a state, the one that the shim's conflist names.
fn cni(facts: &Facts, state: Option<&State>) -> Option<Cni> {
    match state.map(|state| (state.mode, state.before)) {
        Some((Mode::Flannel, _)) => Some(Cni::Flannel),
        Some((Mode::Calico, _)) => Some(Cni::Calico),
        Some((Mode::Hold, before)) => before.map(Cni::from),
        None => {
            let default = &facts.files.confs.get(SHIM_CONFLIST)?["plugins"][0]["default"];
            serde_json::from_value(default.clone()).ok()
        }
    }
}

/// The network that serves new pods of this CNI without the shim.
fn native(host: &Host, backends: &Backends, cni: Cni) -> Option<Native> {
    let path = backends.path(crate::plan::shim_backend(cni));
    let (list, _) = List::read(&host.path(path)).ok()?;
    let kind = |plugin: &serde_json::Map<String, Value>| plugin.get("type")?.as_str().map(str::to_owned);
    Some(Native {
        conflist: path.display().to_string(),
        plugins: list.plugins.iter().filter_map(kind).collect(),
        network: list.name,
    })
}

/// Whether a result that libcni cached was made by a configuration that runs the shim.
pub fn is_the_shims(cache: &Value) -> bool {
    let list = cache["config"].as_str().and_then(|config| STANDARD.decode(config).ok()).unwrap_or_default();
    List::parse(&list).is_ok_and(|list| list.runs(TYPE))
}

/// Sandboxes whose cached network configuration names the shim.
fn cached_through_the_shim(paths: &cni_store::Paths) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for folder in paths.results() {
        for name in files::list(&folder).unwrap_or_default() {
            let text = files::read_found(&folder.join(name)).ok().flatten().unwrap_or_default();
            let cache: Value = serde_json::from_slice(&text).unwrap_or_default();
            if is_the_shims(&cache) {
                found.extend(cache["containerId"].as_str().map(str::to_owned));
            }
        }
    }
    found
}

fn pending_del(pending: &Pending) -> PendingDel {
    PendingDel {
        container: pending.container_id.clone(),
        interface: pending.ifname.clone(),
        pod: pending.pod().as_ref().map(Pod::full_name),
        attempts: pending.attempts,
        error: pending.error.to_string(),
        since_ms: pending.since_ms,
        tried_ms: pending.tried_ms,
    }
}

fn waiting_add(hold: cni_store::holds::Hold) -> WaitingAdd {
    WaitingAdd {
        pod: hold.pod.as_ref().map(Pod::full_name),
        container: hold.container_id,
        interface: hold.ifname,
        since_ms: hold.since_ms,
        deadline_ms: hold.deadline_ms,
    }
}

#[cfg(test)]
mod tests {
    use cni_store::state::Backend;

    use super::*;

    #[test]
    fn conflists_are_found_through_another_root() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("etc/cni/net.d");
        std::fs::create_dir_all(&dir).expect("a directory");
        let list = r#"{"name":"cbr0","cniVersion":"0.3.1","plugins":[{"type":"flannel"}]}"#;
        std::fs::write(dir.join("10-flannel.conflist"), list).expect("a file");
        let backends = backends(&Facts::default());
        let paths = cni_store::Paths::under(root.path());
        assert_eq!(backends.list(&paths, Backend::Flannel, false).expect("a list").name, "cbr0");
        let native = native(&Host::new(root.path()), &backends, Cni::Flannel).expect("a list");
        assert_eq!(native.conflist, "/etc/cni/net.d/10-flannel.conflist");
    }
}
