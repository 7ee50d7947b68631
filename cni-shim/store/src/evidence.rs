//! What tells whose a sandbox is that has no readable record: one older than the shim, or one whose record a power cut took.
//!
//! In this order: libcni's cached result (it holds the whole conflist), flannel's scratch file, an address that host-local
//! has reserved for it, Calico's host interface of the pod. Canal's pods have such an interface too: host-local's lease tells them
//! from Calico's. Guesses from the node's present state are not among them: a
//! sandbox without evidence has nothing to clean up.

use crate::backends::{Backends, is_canal, owner as owner_of};
use crate::record::{Pod, Record};
use crate::state::Backend;
use crate::{Paths, lock, scratch};
use cni_spec::chain::{DelList, PluginCall};
use cni_spec::conflist::{List, TYPE, find_in_path};
use cni_spec::{Error, convert};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod decode;

pub use decode::calico_interface;

/// The sandbox in question, and what its runtime said about it.
#[derive(Clone, Copy, Debug)]
pub struct Sought<'a> {
    /// CNI_CONTAINERID.
    pub container_id: &'a str,
    /// CNI_IFNAME.
    pub ifname: &'a str,
    /// CNI_ARGS; may be empty.
    pub args: &'a str,
    /// CNI_PATH.
    pub cni_path: &'a str,
    /// There was a record, but it is unreadable: with no better evidence, both backends are to clean up.
    pub torn: bool,
}

/// libcni's cached result of one network for a sandbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cached {
    /// The network's name.
    pub network: String,
    /// The conflist that made it; `None` in a cache file that is torn or from before libcni 0.8.
    pub conflist: Option<Vec<u8>>,
    /// CNI_ARGS.
    pub args: String,
    /// The capability arguments.
    pub runtime_config: Map<String, Value>,
    /// CNI_NETNS.
    pub netns: String,
    /// The result.
    pub result: Option<Value>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    /// libcni's caches, except those of its own loopback network.
    pub cached: Vec<Cached>,
    /// flannel's scratch file.
    pub scratch: Option<String>,
    /// The networks in which host-local has reserved an address for the sandbox.
    pub reserved: Vec<String>,
    /// Calico's host interface for the pod exists.
    pub calico_interface: bool,
}

impl Evidence {
    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Looks for evidence. Reads files only; never opens a network namespace, never asks an API.
pub fn find(paths: &Paths, sought: &Sought<'_>) -> Evidence {
    Evidence {
        cached: paths.results().iter().flat_map(|dir| cached(dir, sought)).collect(),
        scratch: scratch::read(&paths.node("/var/lib/cni/flannel").join(sought.container_id)),
        reserved: reserved(&paths.networks(), sought),
        calico_interface: Pod::from_args(sought.args).is_some_and(|pod| has_calico_interface(paths, sought, &pod)),
    }
}

/// Calico names a pod's host interface after the pod, not the sandbox: while the pod has another sandbox with a record, the
/// interface is that one's. Whichever backend the record names: while a pod is re-plumbed, its record says flannel already and
/// its interface still has Calico's name.
fn has_calico_interface(paths: &Paths, sought: &Sought<'_>, pod: &Pod) -> bool {
    let name = calico_interface("cali", &pod.namespace, &pod.name);
    let of_another = |record: &Record| {
        let same = |other: &Pod| (&other.namespace, &other.name) == (&pod.namespace, &pod.name);
        record.container_id != sought.container_id && record.pod.as_ref().is_some_and(same)
    };
    paths.interfaces().join(name).exists() && !Record::list(paths).is_ok_and(|(all, _)| all.iter().any(of_another))
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(dir).map(|all| all.flatten().map(|entry| entry.path()).collect()).unwrap_or_default();
    files.sort();
    files
}

fn cached(results: &Path, sought: &Sought<'_>) -> Vec<Cached> {
    let ending = format!("-{}-{}", sought.container_id, sought.ifname);
    let of_sandbox = |path: &PathBuf| {
        let network = path.file_name()?.to_str()?.strip_suffix(&ending)?.to_owned();
        let cache: Value = serde_json::from_slice(&fs::read(path).ok()?).unwrap_or_default();
        // Names may hold dashes: network "cbr0" with container "a-c1" reads like "cbr0-a" with "c1".
        if cache.get("containerId").is_some_and(|id| id != sought.container_id) {
            return None;
        }
        if cache.get("kind").and_then(Value::as_str) != Some("cniCacheV1") {
            let result = Some(cache).filter(|cache| cache.get("cniVersion").is_some());
            return Some(Cached { network, result, ..Cached::default() });
        }
        let text = |key| cache.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Some(Cached {
            network,
            conflist: decode::base64(&text("config")),
            args: cache
                .get("cniArgs")
                .and_then(Value::as_array)
                .map(|pairs| decode::arguments(pairs))
                .unwrap_or_default(),
            runtime_config: cache.get("capabilityArgs").and_then(Value::as_object).cloned().unwrap_or_default(),
            netns: text("netns"),
            result: cache.get("result").filter(|result| result.is_object()).cloned(),
        })
    };
    files(results).iter().filter_map(of_sandbox).collect()
}

fn reserved(networks: &Path, sought: &Sought<'_>) -> Vec<String> {
    // host-local writes "<container id>\r\n<interface>"; before 0.8 the container id alone.
    let ours = [format!("{}\r\n{}", sought.container_id, sought.ifname), sought.container_id.to_owned()];
    let holds = |file: &PathBuf| {
        let address = file
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.parse::<std::net::IpAddr>().is_ok());
        address && fs::read_to_string(file).is_ok_and(|content| ours.iter().any(|ours| content.trim() == ours))
    };
    let mut found = files(networks);
    found.retain(|network| files(network).iter().any(holds));
    found.iter().filter_map(|network| network.file_name()?.to_str().map(str::to_owned)).collect()
}

/// Looks for evidence and makes a record of it, not stored. `None` without evidence.
pub fn import_record(paths: &Paths, backends: &Backends, sought: &Sought<'_>) -> Result<Option<Record>, Error> {
    build(paths, backends, sought, &find(paths, sought))
}

/// Records a living sandbox that is older than the shim, if it has no record; false without evidence. `netns` is the runtime's, for
/// where the evidence names none. Waits so long for another call to end.
pub fn adopt(
    paths: &Paths,
    backends: &Backends,
    sought: &Sought<'_>,
    netns: Option<&str>,
    wait: Duration,
) -> Result<bool, Error> {
    let (container_id, ifname) = (sought.container_id, sought.ifname);
    let Some(lock) = lock::attachment(paths, container_id, ifname, wait)? else {
        return Err(lock::busy(paths, container_id, ifname));
    };
    // A DEL that comes at this moment has the lock: what it takes away must not be found before, nor its own record be replaced.
    if Record::load(paths, container_id, ifname)?.is_some() {
        return Ok(true);
    }
    let Some(mut record) = import_record(paths, backends, sought)? else {
        lock.remove();
        return Ok(false);
    };
    if record.netns.is_empty() {
        record.netns = netns.unwrap_or_default().to_owned();
    }
    record.store(paths, true)?;
    Ok(true)
}

/// Makes a record out of evidence, not stored.
pub fn build(
    paths: &Paths,
    backends: &Backends,
    sought: &Sought<'_>,
    found: &Evidence,
) -> Result<Option<Record>, Error> {
    let load = |backend| backends.list(paths, backend, true);
    let (mut lists, mut owner, mut unclear) = (Vec::new(), None, sought.torn);
    for cached in &found.cached {
        let list = match of_cache(paths, backends, sought, found, cached) {
            Told::List(list) => list,
            Told::TheShim => {
                unclear = true;
                continue;
            }
            Told::Nothing => continue,
        };
        owner = owner.or(Some(owner_of(&list)));
        lists.push(list);
    }
    if found.scratch.is_some() && !lists.iter().any(|list| list.runs("flannel")) {
        lists.push(load(Backend::Flannel).or_else(|_| flannel_alone(found.scratch.as_deref()))?);
        owner = owner.or(Some(Backend::Flannel));
    }
    if found.calico_interface && lists.is_empty() {
        let leased = |list: &List| found.reserved.contains(&list.name);
        // Where Calico has never been, there is no list of its; a Canal pod whose lease is gone is Canal's all the same.
        let (backend, list) = match (load(Backend::Flannel).ok().filter(is_canal), load(Backend::Calico)) {
            (Some(canal), calico) if leased(&canal) || calico.is_err() => (Backend::Flannel, canal),
            (_, calico) => (Backend::Calico, calico?),
        };
        owner = Some(backend);
        lists.push(list);
    }
    if unclear && lists.is_empty() {
        lists = guess(paths, backends, sought, found);
    }
    lists.extend(unfreed(found, &lists)?);
    if lists.is_empty() {
        return Ok(None);
    }
    let mut record = assemble(sought, found, &lists, owner.unwrap_or(Backend::Flannel));
    record.result = record.result.filter(|result| convert::result(result.clone(), "1.0.0").is_ok());
    Ok(Some(record))
}

/// What one of libcni's cached results tells.
enum Told {
    /// The list that made the attachment.
    List(List),
    /// That it was the shim, or that it may have been; not for which backend.
    TheShim,
    /// That it was a network that is neither backend's.
    Nothing,
}

fn of_cache(paths: &Paths, backends: &Backends, sought: &Sought<'_>, found: &Evidence, cached: &Cached) -> Told {
    match cached.conflist.as_deref().map(|bytes| List::parse(bytes).ok().filter(|list| !list.runs(TYPE))) {
        Some(Some(list)) => return Told::List(list),
        Some(None) => return Told::TheShim,
        None => {}
    }
    // Without its conflist, the network's name tells the backend: of a pod that is older than the shim. One that the shim has
    // attached is cached under the shim's own name, which is one backend's too, whichever backend attached the pod.
    if sought.torn || cached.network == backends.network {
        return Told::TheShim;
    }
    // Canal's and Calico's networks have one name, and then the lease tells.
    let fits = |list: &List| list.name == cached.network && (!is_canal(list) || found.reserved.contains(&list.name));
    let named = Backend::ALL.into_iter().find_map(|backend| backends.list(paths, backend, true).ok().filter(fits));
    named.map_or(Told::Nothing, Told::List)
}

/// Both backends' lists, or the one by whose name host-local has reserved an address. A guess must not keep a sandbox for ever: it is also
/// made where a second DEL comes between the first one's end and the runtime's forgetting its cached result. A backend that
/// is not on the node (any more) has nothing to clean up.
fn guess(paths: &Paths, backends: &Backends, sought: &Sought<'_>, found: &Evidence) -> Vec<List> {
    let is_here = |list: &List| {
        let kinds = list.plugins.iter().filter_map(|plugin| plugin.get("type")?.as_str());
        kinds.into_iter().all(|kind| find_in_path(sought.cni_path, kind).is_some())
    };
    let leased = |list: &List| owner_of(list) == Backend::Flannel && found.reserved.contains(&list.name);
    let guessed = Backend::ALL.into_iter().filter_map(|backend| backends.list(paths, backend, true).ok());
    guessed.filter(|list| is_here(list) && (found.reserved.is_empty() || leased(list))).collect()
}

/// host-local itself for the addresses that no list frees: without its scratch file, flannel's DEL does not, nor does Calico's own.
fn unfreed(found: &Evidence, lists: &[List]) -> Result<Vec<List>, Error> {
    let freed = |network: &&String| {
        let frees = |list: &List| match owner_of(list) {
            Backend::Calico => false,
            Backend::Flannel => !list.runs("flannel") || found.scratch.is_some(),
        };
        lists.iter().any(|list| list.name == **network && frees(list))
    };
    found.reserved.iter().filter(|network| !freed(network)).map(|network| host_local(network)).collect()
}

/// The list of a flannel whose conflist is gone.
fn flannel_alone(scratch: Option<&str>) -> Result<List, Error> {
    let scratch: Value = serde_json::from_str(scratch.unwrap_or_default()).unwrap_or_default();
    let name = scratch.get("name").cloned().unwrap_or_else(|| "cbr0".into());
    let version = scratch.get("cniVersion").cloned().unwrap_or_else(|| "0.3.1".into());
    List::parse(json!({"name": name, "cniVersion": version, "plugins": [{"type": "flannel"}]}).to_string().as_bytes())
}

/// host-local called directly: for a DEL it wants some range, and looks at none.
fn host_local(network: &str) -> Result<List, Error> {
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "0.0.0.0/0"}]]});
    let list = json!({"name": network, "cniVersion": "0.3.1", "plugins": [{"type": "host-local", "ipam": ipam}]});
    List::parse(list.to_string().as_bytes())
}

fn assemble(sought: &Sought<'_>, found: &Evidence, lists: &[List], owner: Backend) -> Record {
    let context = |list: &List| found.cached.iter().find(|cached| cached.network == list.name).or(found.cached.first());
    let resolve = |list: &List| {
        let call = |config: &Map<String, Value>| {
            let kind = config.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
            // A binary that is missing now is looked for again, and reported, when the DEL runs.
            let path = find_in_path(sought.cni_path, &kind).unwrap_or_else(|| PathBuf::from(&kind));
            PluginCall { kind, path, config: config.clone() }
        };
        DelList {
            network: list.name.clone(),
            cni_version: list.cni_version.clone(),
            plugins: list.plugins.iter().map(call).collect(),
            runtime_config: context(list).map(|cached| cached.runtime_config.clone()).unwrap_or_default(),
            // Without CNI_ARGS, Calico looks for the attachment of no pod and does not find it.
            args: context(list)
                .map(|cached| &cached.args)
                .filter(|args| !args.is_empty())
                .map_or(sought.args, String::as_str)
                .to_owned(),
            disable_check: list.disable_check,
        }
    };
    let mut record = Record::new(sought.container_id, sought.ifname, owner, lists.iter().map(resolve).collect());
    let first = lists.first().and_then(context);
    record.netns = first.map(|cached| cached.netns.clone()).unwrap_or_default();
    record.result = first.and_then(|cached| cached.result.clone());
    record.pod = record.pod.or_else(|| Pod::from_args(sought.args));
    record.flannel_scratch.clone_from(&found.scratch);
    record.cni_path = sought.cni_path.to_owned();
    record.phase = crate::record::Phase::Added;
    record.imported = true;
    record
}
