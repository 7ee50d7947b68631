//! The backends' conflists, and the one that puts the shim in front of both.

use crate::state::Backend;
use crate::{Paths, file};
use cni_spec::conflist::{List, TYPE};
use cni_spec::error::{self, Error};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// The capabilities of the CNI project's CONVENTIONS.md, and containerd's own.
const CAPABILITIES: [&str; 11] = [
    "portMappings",
    "bandwidth",
    "dns",
    "ipRanges",
    "ips",
    "mac",
    "aliases",
    "cgroupPath",
    "deviceID",
    "infinibandGUID",
    "io.kubernetes.cri.pod-annotations",
];

/// The network that the shim is to its runtime, and where the conflists of the two behind it are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backends {
    /// The name of the shim's own network, which libcni's cached results have; empty where it is not known.
    pub network: String,
    /// flannel's conflist.
    pub flannel: PathBuf,
    /// Calico's conflist.
    pub calico: PathBuf,
}

impl Default for Backends {
    fn default() -> Self {
        let dir = Path::new("/etc/cni/net.d");
        Self {
            network: String::new(),
            flannel: dir.join("10-flannel.conflist"),
            calico: dir.join("10-calico.conflist"),
        }
    }
}

impl Backends {
    /// The conflist of one backend.
    pub fn path(&self, backend: Backend) -> &Path {
        match backend {
            Backend::Flannel => &self.flannel,
            Backend::Calico => &self.calico,
        }
    }

    /// Reads a backend's conflist and keeps a copy of it; with `copy_will_do`, a missing or half-written conflist (Calico's
    /// installer writes it in place) is replaced by that copy.
    pub fn list(&self, paths: &Paths, backend: Backend, copy_will_do: bool) -> Result<List, Error> {
        let (path, copy) = (paths.node(self.path(backend)), paths.backend_copy(backend));
        match List::read(&path) {
            Ok((list, bytes)) => {
                if fs::read(&copy).ok().as_deref() != Some(&bytes)
                    && let Err(cause) = file::write(&copy, &bytes, false)
                {
                    error::log(&cause);
                }
                Ok(list)
            }
            Err(cause) => {
                let kept = fs::read(&copy).ok().filter(|_| copy_will_do).and_then(|bytes| List::parse(&bytes).ok());
                kept.and_then(|list| list.with_siblings(&path).ok()).ok_or_else(|| {
                    let fix = format!("{cause}. To fix it: see why {backend}'s installer has not written it");
                    Error::new(error::TRY_LATER, format!("{backend}'s conflist cannot be used"), fix)
                })
            }
        }
    }
}

/// Whether a list is Canal's: Calico's plugin with host-local's addresses. On such a node it plays flannel's part, and its network
/// has the name that Calico's own list gives to its network too.
pub fn is_canal(list: &List) -> bool {
    let main = list.plugins.iter().find(|plugin| plugin.get("type").and_then(Value::as_str) == Some("calico"));
    let ipam = main.and_then(|plugin| plugin.get("ipam")?.get("type")?.as_str());
    ipam == Some("host-local")
}

/// Whose plugins a list runs.
pub fn owner(list: &List) -> Backend {
    if list.runs("calico") && !is_canal(list) { Backend::Calico } else { Backend::Flannel }
}

/// The union of the capabilities of conflists, as the shim must declare them to be given the arguments; always with the ones
/// that runtimes are known to have, since the other backend's conflist may not be on the node yet. Each delegate is given
/// those that it declares, as without the shim.
pub fn union_of_capabilities<'a>(lists: impl IntoIterator<Item = &'a List>) -> Map<String, Value> {
    let mut union: Map<_, _> = CAPABILITIES.iter().map(|name| ((*name).to_owned(), true.into())).collect();
    for plugin in lists.into_iter().flat_map(|list| &list.plugins) {
        let declared = plugin.get("capabilities").and_then(Value::as_object);
        union.extend(
            declared
                .into_iter()
                .flatten()
                .filter(|(_, on)| **on == json!(true))
                .map(|(key, _)| (key.clone(), true.into())),
        );
    }
    union
}

/// The conflist that puts the shim in front of both backends. `native_name` is the name of the list that it replaces, so
/// that a runtime's cache, and CRI-O's GC, keep seeing one network.
pub fn shim_conflist(
    native_name: &str,
    paths: &Paths,
    backends: &Backends,
    capabilities: &Map<String, Value>,
    default: Backend,
) -> Value {
    // A runtime older than cniVersions reads 1.0.0, a newer one picks 1.1.0.
    json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        "name": native_name,
        "loadOnlyInlinedPlugins": true,
        "plugins": [{
            "type": TYPE,
            "capabilities": capabilities,
            "stateDir": paths.state_dir(),
            "default": default,
            "backends": {"flannel": backends.flannel, "calico": backends.calico},
        }],
    })
}
