//! DELs that no runtime will send again: those that failed (the shim keeps them as pending), and those of sandboxes that the
//! runtime has forgotten while the shim still has their record.
//!
//! CRI-O forgets a sandbox after one failed DEL, containerd after a failed ADD, and a killed shim can only leave its record.
//! Each DEL runs under its attachment's lock, so nothing here is in the way of a runtime or of a run of nodectl.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use cni_shim::conflist::Backends;
use cni_shim::pending::{Outcome, Pending};
use cni_shim::record::{Record, argument};
use cni_shim::{Error, Paths, chain, error, file, lock};
use serde::Serialize;

use crate::fault;

/// How long one DEL may take: the shim's own limit.
const LIMIT: Duration = Duration::from_secs(45);

/// What is needed to run DELs.
#[derive(Debug)]
pub struct Reaper<'a> {
    /// The shim's files.
    pub paths: Paths,
    /// The conflists behind the shim.
    pub backends: Backends,
    /// Where the plugins are.
    pub cni_path: String,
    /// Sandboxes that the runtime knows; `None` where it does not say: then only pending DELs are run.
    pub living: Option<BTreeSet<String>>,
    /// A record that is younger than this is left alone even if the runtime does not know its sandbox: containerd lists a
    /// sandbox only when all of it has started.
    pub older_than: Duration,
    /// The open run: its own attachment, which no runtime knows, is its own business.
    pub open_run: Option<&'a str>,
}

/// A DEL that could not be finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Left {
    /// The sandbox.
    pub container: String,
    /// The interface in it.
    pub interface: String,
    /// Why.
    pub why: String,
}

/// What became of them.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reaped {
    /// Sandboxes of which nothing is left now.
    pub finished: Vec<String>,
    /// Those that could not be finished.
    pub left: Vec<Left>,
    /// The runtime did not say which sandboxes live, so records of forgotten ones were not looked for.
    pub runtime_silent: bool,
}

impl Reaper<'_> {
    /// Runs every DEL that is due, past failures.
    pub fn run(&self) -> Result<Reaped> {
        let mut reaped = Reaped { runtime_silent: self.living.is_none(), ..Reaped::default() };
        let mut tried = BTreeSet::new();
        for pending in self.forgotten()?.into_iter().chain(Pending::list(&self.paths)?) {
            let id = (pending.container_id.clone(), pending.ifname.clone());
            if tried.insert(id.clone()) {
                self.one(&pending, id, &mut reaped);
            }
        }
        // Markers and locks of killed shims go with their attachments.
        cni_shim::holds::list(&self.paths)?;
        lock::sweep(&self.paths)?;
        Ok(reaped)
    }

    fn one(&self, pending: &Pending, (container, interface): (String, String), reaped: &mut Reaped) {
        fault::point("shim.pending");
        let why = match pending.run(&self.paths, &self.backends, &self.cni_path, LIMIT) {
            Ok(Outcome::Done) => return reaped.finished.push(container),
            Ok(Outcome::Busy) => {
                "another call for it, or a plugin that one has left behind, is still at work".to_owned()
            }
            Ok(Outcome::Failed(failures)) => chain::join(&failures).to_string(),
            Err(error) => error.to_string(),
        };
        reaped.left.push(Left { container, interface, why });
    }

    /// The records of sandboxes that the runtime does not know any more, noted as pending DELs.
    fn forgotten(&self) -> Result<Vec<Pending>> {
        let Some(living) = &self.living else { return Ok(Vec::new()) };
        let (records, torn) = Record::list(&self.paths)?;
        let mut dead: Vec<(String, String, Option<Record>)> = Vec::new();
        for record in records {
            if !living.contains(&record.container_id) && !self.is_young(record.created_ms) && self.is_abandoned(&record)
            {
                dead.push((record.container_id.clone(), record.ifname.clone(), Some(record)));
            }
        }
        let (_, torn_pending) = Pending::list_all(&self.paths)?;
        for path in torn.into_iter().chain(torn_pending) {
            let named = path.file_stem().and_then(|name| name.to_str()).and_then(container_and_interface);
            let Some((container, interface)) = named.filter(|(id, _)| !living.contains(id)) else { continue };
            if !self.is_young(modified_ms(&path)) {
                dead.push((container, interface, None));
            }
        }
        let gone = Error::new(error::TRY_LATER, "the runtime does not know the sandbox any more", "");
        let noted = dead.into_iter().map(|(container, interface, record)| -> Result<Option<Pending>> {
            let lock = lock::attachment(&self.paths, &container, &interface, Duration::ZERO)?;
            if lock.is_none() {
                // Somebody is at work on it.
                return Ok(None);
            }
            Pending::note(&self.paths, &container, &interface, record.as_ref(), &gone)
                .context("could not note what is to be deleted")?;
            Ok(Pending::load(&self.paths, &container, &interface)?)
        });
        noted.filter_map(Result::transpose).collect()
    }

    /// Whether nobody can be using an attachment that the runtime does not know. A container that belongs to no pod (one of
    /// `ctr run --cni`) is known to its maker alone, and lives as long as its network namespace.
    fn is_abandoned(&self, record: &Record) -> bool {
        match record.del.iter().find_map(|list| argument(&list.args, "NODECTL_RUN")) {
            Some(run) => self.open_run != Some(run),
            None => record.pod.is_some() || record.netns.is_empty() || !self.paths.node(&record.netns).exists(),
        }
    }

    fn is_young(&self, since_ms: u64) -> bool {
        u128::from(file::now_ms().saturating_sub(since_ms)) < self.older_than.as_millis()
    }
}

/// The parts of a record's name, `<container>-<interface>`. Runtimes' ids are 64 hex digits; in others the last dash counts.
fn container_and_interface(name: &str) -> Option<(String, String)> {
    let first = name.split_once('-').filter(|(id, _)| id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()));
    let (container, interface) = first.or_else(|| name.rsplit_once('-'))?;
    Some((container.to_owned(), interface.to_owned()))
}

fn modified_ms(path: &std::path::Path) -> u64 {
    let modified = std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    let since = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok()).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use cni_shim::record::{DelList, PluginCall};
    use cni_shim::state::Backend;
    use serde_json::Map;

    use super::*;

    /// An attachment whose DEL is done by a program that succeeds.
    fn attach(paths: &Paths, id: &str, args: &str, netns: &str, age_s: u64) {
        let call = PluginCall { kind: "true".into(), path: "/bin/true".into(), config: Map::new() };
        let list = DelList {
            network: "cbr0".into(),
            cni_version: "1.0.0".into(),
            plugins: vec![call],
            runtime_config: Map::new(),
            args: args.into(),
            disable_check: false,
        };
        let mut record = Record::new(id, "eth0", Backend::Flannel, vec![list]);
        record.netns = netns.into();
        record.created_ms -= age_s * 1000;
        record.store(paths, false).expect("a record");
    }

    #[test]
    fn only_what_nobody_can_be_using_is_forgotten() {
        let root = tempfile::tempdir().expect("a directory");
        let paths = Paths::under(root.path());
        std::fs::create_dir(root.path().join("netns")).expect("a directory");
        std::fs::write(root.path().join("netns/lives"), "").expect("a file");
        let pod = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web";
        attach(&paths, "known", pod, "/netns/lives", 900);
        attach(&paths, "forgotten", pod, "/netns/lives", 900);
        attach(&paths, "young", pod, "/netns/lives", 30);
        attach(&paths, "container", "", "/netns/lives", 900);
        attach(&paths, "ended", "", "/netns/gone", 900);
        attach(&paths, "probe", "NODECTL_RUN=r1", "/netns/lives", 900);
        attach(&paths, "stray", "NODECTL_RUN=r0", "/netns/lives", 900);
        let reaper = Reaper {
            paths: paths.clone(),
            backends: Backends::default(),
            cni_path: String::new(),
            living: Some(["known".to_owned()].into()),
            older_than: Duration::from_secs(600),
            open_run: Some("r1"),
        };
        let reaped = reaper.run().expect("it runs");
        assert_eq!((reaped.finished, reaped.left), (["ended", "forgotten", "stray"].map(str::to_owned).into(), vec![]));
        let left = Record::list(&paths).expect("records").0;
        let left: Vec<_> = left.iter().map(|record| record.container_id.as_str()).collect();
        assert_eq!(left, ["container", "known", "probe", "young"]);
        let silent = Reaper { living: None, older_than: Duration::ZERO, ..reaper };
        assert_eq!(silent.run().expect("it runs"), Reaped { runtime_silent: true, ..Reaped::default() });
    }

    #[test]
    fn a_records_name_tells_whose_it_is() {
        let id = "0".repeat(64);
        let parts = |name: &str| container_and_interface(name);
        assert_eq!(parts(&format!("{id}-net-1")), Some((id.clone(), "net-1".into())));
        assert_eq!(parts("nodectl-2026-1-eth0"), Some(("nodectl-2026-1".into(), "eth0".into())));
        assert_eq!(parts("nothing"), None);
    }
}
