//! DELs that have failed and that a runtime may never send again (CRI-O forgets a sandbox after one failed DEL, containerd
//! after a failed ADD): nodectl finishes them.

use crate::backends::Backends;
use crate::record::{FORMAT, Pod, Record};
use crate::{Paths, delete, evidence, file, lock};
use cni_spec::chain::Failure;
use cni_spec::error::{self, Error};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// One pending DEL. While it exists, an ADD of the same attachment that ends late undoes itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// [`crate::record::FORMAT`].
    pub format: u32,
    /// The sandbox.
    pub container_id: String,
    /// The interface in it.
    pub ifname: String,
    /// What to run; `None` if the DEL came before the record could be read, so that the record or the evidence decides.
    #[serde(default)]
    pub record: Option<Record>,
    /// CNI_ARGS of the runtime's DEL, for where there is no record: Calico's evidence goes by the pod that they name.
    #[serde(default)]
    pub args: String,
    /// How often it has been tried.
    pub attempts: u32,
    /// Why the last try failed.
    pub error: Error,
    /// The first try, in Unix milliseconds.
    pub since_ms: u64,
    /// The last try, in Unix milliseconds.
    pub tried_ms: u64,
}

/// What became of a pending DEL.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// Nothing is left of the attachment.
    Done,
    /// The runtime, or a delegate that was left behind, is at work on it.
    Busy,
    /// These delegates failed; it is still pending.
    Failed(Vec<Failure>),
}

impl Pending {
    /// Notes a failed DEL, or one more try of it. Code 7 if a later cni-shim's note is in the way.
    pub fn note(
        paths: &Paths,
        container_id: &str,
        ifname: &str,
        record: Option<&Record>,
        error: &Error,
    ) -> Result<(), Error> {
        Self::note_asked(paths, (container_id, ifname), record, "", error)
    }

    /// The same with the CNI_ARGS of the runtime that has asked.
    pub fn note_asked(
        paths: &Paths,
        (container_id, ifname): (&str, &str),
        record: Option<&Record>,
        args: &str,
        error: &Error,
    ) -> Result<(), Error> {
        let now = file::now_ms();
        let before = match Self::load(paths, container_id, ifname) {
            Err(cause) if cause.code == error::CONFIG => return Err(cause),
            before => before.ok().flatten(),
        };
        let (attempts, since_ms) = before.as_ref().map_or((0, now), |before| (before.attempts, before.since_ms));
        let asked = before.as_ref().map(|before| before.args.clone()).filter(|_| args.is_empty());
        let pending = Self {
            format: FORMAT,
            container_id: container_id.to_owned(),
            ifname: ifname.to_owned(),
            record: record.cloned().or_else(|| before.and_then(|before| before.record)),
            args: asked.unwrap_or_else(|| args.to_owned()),
            attempts: attempts.saturating_add(1),
            error: error.clone(),
            since_ms,
            tried_ms: now,
        };
        file::write_json(&paths.pending(container_id, ifname), &pending, true)
    }

    /// Reads one; `None` if there is none, code 6 if it is torn, code 7 if a later cni-shim wrote it.
    pub fn load(paths: &Paths, container_id: &str, ifname: &str) -> Result<Option<Self>, Error> {
        file::read_format(&paths.pending(container_id, ifname), FORMAT)
    }

    /// Removes one.
    pub fn remove(paths: &Paths, container_id: &str, ifname: &str) -> Result<(), Error> {
        file::remove(&paths.pending(container_id, ifname))
    }

    /// The pod, as far as it is known.
    pub fn pod(&self) -> Option<Pod> {
        self.record.as_ref().and_then(|record| record.pod.clone()).or_else(|| Pod::from_args(&self.args))
    }

    /// All of them, and the files that should be pending DELs but cannot be read.
    pub fn list(paths: &Paths) -> Result<(Vec<Self>, Vec<PathBuf>), Error> {
        file::read_all(&paths.pendings(), FORMAT)
    }

    /// Tries one again, within a time, and waits so long before it for another call to end. The attachment's record, if there still
    /// is one, is newer than the one noted here.
    pub fn run(
        &self,
        paths: &Paths,
        backends: &Backends,
        cni_path: &str,
        wait: Duration,
        within: Duration,
    ) -> Result<Outcome, Error> {
        let (container_id, ifname) = (self.container_id.as_str(), self.ifname.as_str());
        let Some(lock) = lock::attachment(paths, container_id, ifname, wait)? else {
            return Ok(Outcome::Busy);
        };
        if Self::load(paths, container_id, ifname).is_ok_and(|still| still.is_none()) {
            lock.remove();
            return Ok(Outcome::Done);
        }
        let record = match Record::load(paths, container_id, ifname) {
            Ok(Some(record)) => Some(record),
            Err(cause) if cause.code == error::CONFIG => return Err(cause),
            _ if self.record.is_some() => self.record.clone(),
            unusable => {
                let (args, torn) = (self.args.as_str(), unusable.is_err());
                let sought = evidence::Sought { container_id, ifname, args, cni_path, torn };
                match evidence::import_record(paths, backends, &sought) {
                    Ok(found) => found,
                    Err(cause) => {
                        Self::note(paths, container_id, ifname, None, &cause)?;
                        return Err(cause);
                    }
                }
            }
        };
        let Some(record) = record else {
            // Nothing can be run for a torn record when neither backend has a conflist: then nothing of it is left either.
            file::remove(&paths.record(container_id, ifname))?;
            Self::remove(paths, container_id, ifname)?;
            lock.remove();
            return Ok(Outcome::Done);
        };
        let invocation = delete::unattended(&record);
        let terms = delete::Terms { network: &backends.network, unasked: true, within, defer: false };
        match delete::finish(paths, record, &invocation, terms, lock) {
            Ok(()) => Ok(Outcome::Done),
            Err(failures) => Ok(Outcome::Failed(failures)),
        }
    }
}
