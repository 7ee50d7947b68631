//! Where everything lies. Nothing else in this crate spells a path.

use crate::state::Backend;
use std::path::{Path, PathBuf};

/// The shim's state directory, and the root under which the files of others (libcni, flannel, host-local, Calico) are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    root: PathBuf,
    state_dir: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self::under("/")
    }
}

impl Paths {
    /// Everything under one root: the state directory is `<root>/var/lib/cni-shim`.
    pub fn under(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self { state_dir: root.join("var/lib/cni-shim"), root }
    }

    /// A root and a state directory of its own (the latter is not taken relative to the root).
    pub fn new(root: impl Into<PathBuf>, state_dir: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), state_dir: state_dir.into() }
    }

    /// An absolute path of the node, seen through the root.
    pub fn node(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The state directory.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// The routing state.
    pub fn state(&self) -> PathBuf {
        self.state_dir.join("state.json")
    }

    /// The last good copy of the routing state.
    pub fn state_copy(&self) -> PathBuf {
        self.state_dir.join("state.json.prev")
    }

    /// The lock of the routing state: shared by ADD while it reads the state and writes its intent, exclusive for a change.
    pub fn state_lock(&self) -> PathBuf {
        self.state_dir.join("locks/state")
    }

    /// The directory of the attachment records.
    pub fn attachments(&self) -> PathBuf {
        self.state_dir.join("attachments")
    }

    /// One attachment's record.
    pub fn record(&self, container_id: &str, ifname: &str) -> PathBuf {
        self.attachments().join(name(container_id, ifname) + ".json")
    }

    /// The directory of the DELs that are still to be done.
    pub fn pendings(&self) -> PathBuf {
        self.state_dir.join("pending")
    }

    /// One attachment's pending DEL.
    pub fn pending(&self, container_id: &str, ifname: &str) -> PathBuf {
        self.pendings().join(name(container_id, ifname) + ".json")
    }

    /// The directory of the markers of ADDs that wait.
    pub fn holds(&self) -> PathBuf {
        self.state_dir.join("holds")
    }

    /// One waiting ADD's marker.
    pub fn hold(&self, container_id: &str, ifname: &str) -> PathBuf {
        self.holds().join(name(container_id, ifname) + ".json")
    }

    /// One attachment's lock file.
    pub fn attachment_lock(&self, container_id: &str, ifname: &str) -> PathBuf {
        self.state_dir.join("locks").join(name(container_id, ifname) + ".lock")
    }

    /// The last good copy of a backend's conflist.
    pub fn backend_copy(&self, backend: Backend) -> PathBuf {
        self.state_dir.join("backends").join(format!("{backend}.conflist"))
    }

    /// Every directory that the shim writes files to: a killed one may have left a temporary file there.
    pub fn written(&self) -> [PathBuf; 6] {
        let backends = self.state_dir.join("backends");
        let flannel = self.node("/var/lib/cni/flannel");
        [self.state_dir.clone(), self.attachments(), self.pendings(), self.holds(), backends, flannel]
    }

    /// libcni's result caches: containerd's and CRI-O's, then cri-dockerd's.
    pub fn results(&self) -> [PathBuf; 2] {
        [self.node("/var/lib/cni/results"), self.node("/var/lib/cni/cache/results")]
    }

    /// host-local's directory of networks.
    pub fn networks(&self) -> PathBuf {
        self.node("/var/lib/cni/networks")
    }

    /// The host's network interfaces.
    pub fn interfaces(&self) -> PathBuf {
        self.node("/sys/class/net")
    }
}

/// What an attachment's files are called. A container's id may hold dashes; so that the last one always separates, an
/// interface's own are escaped.
fn name(container_id: &str, ifname: &str) -> String {
    // The plugin has validated both; a caller of the library may not have.
    format!("{container_id}-{}", ifname.replace('%', "%25").replace('-', "%2D")).replace('/', "_")
}

/// Whose a record or a pending DEL is by its file's name: container and interface.
pub fn attachment_of(file: &Path) -> Option<(String, String)> {
    let (container_id, ifname) = file.file_stem()?.to_str()?.rsplit_once('-')?;
    Some((container_id.to_owned(), ifname.replace("%2D", "-").replace("%25", "%")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attachment_has_a_file_of_its_own() {
        let paths = Paths::default();
        for (container_id, ifname) in [("a", "b-c"), ("a-b", "c"), ("c1", "eth0"), ("c1", "50%"), ("c1", "%2D")] {
            let record = paths.record(container_id, ifname);
            assert_eq!(attachment_of(&record), Some((container_id.to_owned(), ifname.to_owned())));
        }
        assert_eq!(paths.record("c1", "eth0"), Path::new("/var/lib/cni-shim/attachments/c1-eth0.json"));
        assert_eq!(attachment_of(Path::new("/nothing")), None);
    }
}
