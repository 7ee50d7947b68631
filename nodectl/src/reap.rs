//! DELs that no runtime will send again: those that failed (the shim keeps them as pending), and those of sandboxes that the
//! runtime has forgotten while the shim still has their record.
//!
//! CRI-O forgets a sandbox after one failed DEL, containerd after a failed ADD, and a killed shim can only leave its record.
//! Each DEL runs under its attachment's lock, so nothing here is in the way of a runtime or of a run of nodectl.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use cni_spec::{Error, chain, error};
use cni_store::backends::Backends;
use cni_store::paths::attachment_of;
use cni_store::pending::{Outcome, Pending};
use cni_store::record::Record;
use cni_store::{Paths, file, lock};
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
        for (container, interface, record) in self.forgotten()? {
            if let Err(error) = self.note(&container, &interface, record.as_ref()) {
                reaped.left.push(Left { container, interface, why: error.to_string() });
            }
        }
        let ran = run_kept(&self.paths, &self.backends, &self.cni_path, Duration::ZERO, LIMIT)?;
        reaped.finished.extend(ran.finished);
        reaped.left.extend(ran.left);
        // Markers, temporary files and locks of killed shims go with their attachments. Listing is what sweeps.
        cni_store::holds::list(&self.paths)?;
        self.paths.written().iter().try_for_each(|dir| file::list(dir).map(drop))?;
        lock::sweep(&self.paths)?;
        Ok(reaped)
    }

    /// The records of sandboxes that the runtime does not know any more, and the files that should be some.
    fn forgotten(&self) -> Result<Vec<(String, String, Option<Record>)>> {
        let Some(living) = &self.living else { return Ok(Vec::new()) };
        let (mut records, torn) = Record::list(&self.paths)?;
        records.retain(|record| !living.contains(&record.container_id));
        records.retain(|record| !record.is_younger_than(self.older_than) && self.is_abandoned(record));
        let dead = records.into_iter().map(|record| (record.container_id.clone(), record.ifname.clone(), Some(record)));
        let mut dead: Vec<_> = dead.collect();
        let (_, torn_pending) = Pending::list(&self.paths)?;
        for path in torn.into_iter().chain(torn_pending).filter(|path| since_written(path) >= self.older_than) {
            let named = attachment_of(&path).filter(|(id, _)| !living.contains(id));
            dead.extend(named.map(|(container, interface)| (container, interface, None)));
        }
        Ok(dead)
    }

    /// Notes a DEL as pending, unless somebody is at work on the attachment.
    fn note(&self, container: &str, interface: &str, record: Option<&Record>) -> Result<(), Error> {
        let gone = Error::new(error::TRY_LATER, "the runtime does not know the sandbox any more", "");
        match lock::attachment(&self.paths, container, interface, Duration::ZERO)? {
            Some(_lock) => Pending::note(&self.paths, container, interface, record, &gone),
            None => Ok(()),
        }
    }

    /// Whether nobody can be using an attachment that the runtime does not know. A container that belongs to no pod (one of
    /// `ctr run --cni`) is known to its maker alone, and lives as long as its network namespace.
    fn is_abandoned(&self, record: &Record) -> bool {
        match record.run() {
            Some(run) => self.open_run != Some(run),
            None => record.pod.is_some() || record.netns.is_empty() || !self.paths.node(&record.netns).exists(),
        }
    }
}

/// Runs the DELs that the shim keeps because a delegate had failed, each within a time; all of them, whatever becomes of one. Where
/// other calls are at work on them, it waits so long for all of those together.
pub fn run_kept(
    paths: &Paths,
    backends: &Backends,
    cni_path: &str,
    patience: Duration,
    within: Duration,
) -> Result<Reaped> {
    let (mut reaped, end) = (Reaped::default(), Instant::now() + patience);
    for pending in Pending::list(paths)?.0 {
        fault::point("shim.pending");
        let wait = end.saturating_duration_since(Instant::now());
        let why = match pending.run(paths, backends, cni_path, wait, within) {
            Ok(Outcome::Done) => {
                reaped.finished.push(pending.container_id);
                continue;
            }
            Ok(Outcome::Busy) => {
                "another call for it, or a plugin that one has left behind, is still at work".to_owned()
            }
            Ok(Outcome::Failed(failures)) => chain::join(&failures).to_string(),
            Err(error) => error.to_string(),
        };
        reaped.left.push(Left { container: pending.container_id, interface: pending.ifname, why });
    }
    Ok(reaped)
}

/// How long ago a file was written; nothing where that cannot be told.
fn since_written(path: &Path) -> Duration {
    let written = std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    written.and_then(|time| time.elapsed().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use cni_spec::chain::{DelList, PluginCall};
    use cni_store::state::Backend;
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
        record.created_boot_ms = record.created_boot_ms.saturating_sub(age_s * 1000);
        record.store(paths, false).expect("a record");
    }

    fn reaper(paths: &Paths) -> Reaper<'static> {
        Reaper {
            paths: paths.clone(),
            backends: Backends::default(),
            cni_path: String::new(),
            living: Some(["known".to_owned()].into()),
            older_than: Duration::from_secs(60),
            open_run: Some("r1"),
        }
    }

    #[test]
    fn row_26_what_is_locked_is_left_alone() {
        let root = tempfile::tempdir().expect("a directory");
        let paths = Paths::under(root.path());
        attach(&paths, "c1", "", "", 90);
        let lock = lock::attachment(&paths, "c1", "eth0", Duration::ZERO).expect("a lock");
        assert_eq!(reaper(&paths).run().expect("it runs"), Reaped::default());
        drop(lock);
        // A child that another test starts just now has a copy of the lock until it becomes its own program.
        let finished = (0..200).find_map(|_| {
            std::thread::sleep(Duration::from_millis(5));
            Some(reaper(&paths).run().expect("it runs").finished).filter(|done| !done.is_empty())
        });
        assert_eq!(finished, Some(vec!["c1".to_owned()]));
    }

    #[test]
    fn a_kept_del_waits_for_the_call_that_is_at_work_on_it() {
        let root = tempfile::tempdir().expect("a directory");
        let paths = Paths::under(root.path());
        attach(&paths, "c1", "", "", 0);
        let gone = Error::new(error::TRY_LATER, "the API server does not answer", "");
        let record = Record::load(&paths, "c1", "eth0").expect("it reads");
        Pending::note(&paths, "c1", "eth0", record.as_ref(), &gone).expect("it is noted");
        let lock = lock::attachment(&paths, "c1", "eth0", Duration::ZERO).expect("a lock");
        let run = |patience: Duration| {
            run_kept(&paths, &Backends::default(), "", patience, Duration::from_secs(10)).expect("it runs")
        };
        let left = run(Duration::from_millis(20)).left;
        assert!(left.iter().any(|left| left.why.contains("still at work")), "{left:?}");
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(lock);
        });
        assert_eq!(run(Duration::from_secs(30)).finished, ["c1"]);
        other.join().expect("it ends");
    }

    #[test]
    fn one_that_cannot_be_noted_does_not_keep_the_others() {
        let root = tempfile::tempdir().expect("a directory");
        let paths = Paths::under(root.path());
        attach(&paths, "a", "", "", 90);
        attach(&paths, "b", "", "", 90);
        let later = paths.pending("a", "eth0");
        std::fs::create_dir(paths.pendings()).expect("a directory");
        std::fs::write(&later, r#"{"format":2}"#).expect("a file");
        let reaped = reaper(&paths).run().expect("it runs");
        assert_eq!((reaped.finished, reaped.left.len()), (vec!["b".to_owned()], 1));
        assert!(reaped.left[0].why.contains("install the later cni-shim again"), "{:?}", reaped.left);
        assert_eq!(std::fs::read_to_string(&later).expect("it stays"), r#"{"format":2}"#);
    }

    #[test]
    fn only_what_nobody_can_be_using_is_forgotten() {
        let root = tempfile::tempdir().expect("a directory");
        let paths = Paths::under(root.path());
        std::fs::create_dir(root.path().join("netns")).expect("a directory");
        std::fs::write(root.path().join("netns/lives"), "").expect("a file");
        let pod = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web";
        attach(&paths, "known", pod, "/netns/lives", 90);
        attach(&paths, "forgotten", pod, "/netns/lives", 90);
        attach(&paths, "young", pod, "/netns/lives", 0);
        attach(&paths, "container", "", "/netns/lives", 90);
        attach(&paths, "ended", "", "/netns/gone", 90);
        attach(&paths, "probe", "NODECTL_RUN=r1", "/netns/lives", 90);
        attach(&paths, "stray", "NODECTL_RUN=r0", "/netns/lives", 90);
        let reaped = reaper(&paths).run().expect("it runs");
        assert_eq!((reaped.finished, reaped.left), (["ended", "forgotten", "stray"].map(str::to_owned).into(), vec![]));
        let left = Record::list(&paths).expect("records").0;
        let left: Vec<_> = left.iter().map(|record| record.container_id.as_str()).collect();
        assert_eq!(left, ["container", "known", "probe", "young"]);
        let silent = Reaper { living: None, older_than: Duration::ZERO, ..reaper(&paths) };
        assert_eq!(silent.run().expect("it runs"), Reaped { runtime_silent: true, ..Reaped::default() });
    }
}
