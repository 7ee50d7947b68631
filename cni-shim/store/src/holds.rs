//! ADDs that wait: one marker each, for nodectl to tell which pods a hold delays.

use crate::record::Pod;
use crate::{Paths, file};
use cni_spec::{Error, process};
use serde::{Deserialize, Serialize};

/// An ADD that waits for the state to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// [`crate::record::FORMAT`].
    pub format: u32,
    /// The sandbox.
    pub container_id: String,
    /// The interface in it.
    pub ifname: String,
    /// The pod.
    #[serde(default)]
    pub pod: Option<Pod>,
    /// Since when it waits, in Unix milliseconds.
    pub since_ms: u64,
    /// When it gives up with code 11, in Unix milliseconds.
    pub deadline_ms: u64,
    /// The waiting shim.
    pub pid: u32,
    /// When that started, in clock ticks since boot.
    #[serde(default)]
    pub started: Option<u64>,
}

impl Hold {
    /// Writes this process's marker.
    pub fn store(&self, paths: &Paths) -> Result<(), Error> {
        file::write_json(&paths.hold(&self.container_id, &self.ifname), self, false)
    }

    /// Whether the marker is still there: a DEL that comes meanwhile takes it away.
    pub fn is_wanted(&self, paths: &Paths) -> bool {
        file::read_json(&paths.hold(&self.container_id, &self.ifname)).is_ok_and(|found| found.as_ref() == Some(self))
    }

    /// Removes a marker: the ADD goes on, gives up, or is overtaken by its DEL.
    pub fn remove(paths: &Paths, container_id: &str, ifname: &str) -> Result<(), Error> {
        file::remove(&paths.hold(container_id, ifname))
    }
}

/// The ADDs that wait now. Markers of shims that were killed are swept.
pub fn list(paths: &Paths) -> Result<Vec<Hold>, Error> {
    let mut holds = Vec::new();
    for path in file::list(&paths.holds())? {
        match file::read_json::<Hold>(&path) {
            Ok(Some(hold)) if hold.started.is_some() && process::started(hold.pid) == hold.started => holds.push(hold),
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => file::remove(&path)?,
        }
    }
    Ok(holds)
}
