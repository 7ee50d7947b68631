//! What the shim remembers of an attachment: everything that its DEL needs, whatever the node looks like by then.

use crate::state::Backend;
use crate::{Paths, file, lock};
use cni_spec::chain::{DelList, argument};
use cni_spec::error::{self, Error};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// The version of the record that this code writes.
pub const FORMAT: u32 = 1;

/// How far an attachment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Its ADD is about to run delegates, or runs them, or died.
    Intent,
    /// Its ADD has succeeded.
    Added,
    /// Its DEL has run at least once without full success.
    Deleting,
}

/// The pod of an attachment, as CNI_ARGS names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// K8S_POD_NAMESPACE.
    pub namespace: String,
    /// K8S_POD_NAME.
    pub name: String,
    /// K8S_POD_UID; empty if the runtime does not say.
    #[serde(default)]
    pub uid: String,
}

impl Pod {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Reads CNI_ARGS; `None` if they name no pod.
    pub fn from_args(args: &str) -> Option<Self> {
        Some(Self {
            namespace: argument(args, "K8S_POD_NAMESPACE")?.to_owned(),
            name: argument(args, "K8S_POD_NAME")?.to_owned(),
            uid: argument(args, "K8S_POD_UID").unwrap_or_default().to_owned(),
        })
    }
}

/// One attachment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`FORMAT`].
    pub format: u32,
    /// The sandbox.
    pub container_id: String,
    /// The interface in it.
    pub ifname: String,
    /// CNI_NETNS of ADD.
    #[serde(default)]
    pub netns: String,
    /// The pod.
    #[serde(default)]
    pub pod: Option<Pod>,
    /// How far it has come.
    pub phase: Phase,
    /// Whose it is.
    pub backend: Backend,
    /// What its DEL runs, list by list: one, or after an adoption Calico's and what is left of flannel's.
    pub del: Vec<DelList>,
    /// The final result in the first list's version, for prevResult.
    #[serde(default)]
    pub result: Option<Value>,
    /// flannel's scratch file: without it, flannel's DEL does nothing and says that it succeeded.
    #[serde(default)]
    pub flannel_scratch: Option<String>,
    /// CNI_PATH of ADD, for the plugins that the plugins run.
    #[serde(default)]
    pub cni_path: String,
    /// The shim that wrote this.
    #[serde(default)]
    pub shim_version: String,
    /// The boot in which it was written.
    #[serde(default)]
    pub boot_id: String,
    /// When ADD began, in Unix milliseconds.
    #[serde(default)]
    pub created_ms: u64,
    /// The same in milliseconds since the boot: that clock cannot be set.
    #[serde(default)]
    pub created_boot_ms: u64,
    /// Made from evidence: the sandbox is older than the shim.
    #[serde(default)]
    pub imported: bool,
}

impl Record {
    /// A new record in phase `intent`.
    pub fn new(container_id: &str, ifname: &str, backend: Backend, del: Vec<DelList>) -> Self {
        Self {
            format: FORMAT,
            container_id: container_id.to_owned(),
            ifname: ifname.to_owned(),
            netns: String::new(),
            pod: del.iter().find_map(|list| Pod::from_args(&list.args)),
            phase: Phase::Intent,
            backend,
            del,
            result: None,
            flannel_scratch: None,
            cni_path: String::new(),
            shim_version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: file::boot_id(),
            created_ms: file::now_ms(),
            created_boot_ms: file::since_boot_ms(),
            imported: false,
        }
    }

    /// Reads a record; `None` if there is none, code 6 if it is torn or another attachment's, code 7 if a later shim wrote it.
    pub fn load(paths: &Paths, container_id: &str, ifname: &str) -> Result<Option<Self>, Error> {
        let path = paths.record(container_id, ifname);
        match file::read_format::<Self>(&path, FORMAT)? {
            Some(record) if (record.container_id.as_str(), record.ifname.as_str()) != (container_id, ifname) => {
                Err(Error::new(error::DECODE, format!("{} is another attachment's", path.display()), ""))
            }
            record => Ok(record),
        }
    }

    /// Writes the record; `durable` makes it survive a power cut. The caller holds the attachment's lock.
    pub fn store(&self, paths: &Paths, durable: bool) -> Result<(), Error> {
        file::write_json(&paths.record(&self.container_id, &self.ifname), self, durable)
    }

    /// Writes down how its ADD has ended, behind the intent. The caller holds the attachment's lock.
    pub fn complete(&self, paths: &Paths) -> Result<(), Error> {
        file::append_json(&paths.record(&self.container_id, &self.ifname), self)
    }

    /// Removes the record. The caller holds the attachment's lock.
    pub fn remove(&self, paths: &Paths) -> Result<(), Error> {
        file::remove(&paths.record(&self.container_id, &self.ifname))
    }

    /// All records, and the files that should be records but cannot be read.
    pub fn list(paths: &Paths) -> Result<(Vec<Self>, Vec<PathBuf>), Error> {
        file::read_all(&paths.attachments(), FORMAT)
    }

    /// The ADDs that are at work. After a change of the state, whoever must not run beside the old backend waits for them.
    pub fn in_flight(paths: &Paths) -> Result<Vec<Self>, Error> {
        let (mut records, _) = Self::list(paths)?;
        records.retain(|record| record.phase == Phase::Intent && record.is_busy(paths).unwrap_or(true));
        Ok(records)
    }

    /// Whether its ADD began in this boot and not so long ago.
    pub fn is_younger_than(&self, age: Duration) -> bool {
        let since = Duration::from_millis(file::since_boot_ms().saturating_sub(self.created_boot_ms));
        self.boot_id == file::boot_id() && since < age
    }

    /// The nodectl run whose own attachment this is: no runtime knows it.
    pub fn run(&self) -> Option<&str> {
        self.del.iter().find_map(|list| argument(&list.args, "NODECTL_RUN"))
    }

    /// Whether an ADD, a DEL or one of its delegates is still at work on the attachment.
    pub fn is_busy(&self, paths: &Paths) -> Result<bool, Error> {
        Ok(lock::attachment(paths, &self.container_id, &self.ifname, Duration::ZERO)?.is_none())
    }
}
