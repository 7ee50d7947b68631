//! CHECK, GC and STATUS.

use cni_shim::request::Request;
use cni_spec::chain::{self, Failure};
use cni_spec::conflist::{List, TYPE};
use cni_spec::convert;
use cni_spec::error::{self, Error};
use cni_store::delete::{self, Terms};
use cni_store::record::{Phase, Record};
use cni_store::state::{Backend, Route, State};
use cni_store::{file, lock};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Runs the CHECK of the list that made the attachment. What cannot be checked is taken for sound: CRI-O calls CHECK right
/// after every ADD, and code 3 would say that no DEL is needed.
pub fn check(request: &Request) -> Result<(), Error> {
    let (id, ifname) = request.attachment();
    let wait = request.limits.lock().min(Duration::from_secs(10));
    let Ok(Some(lock)) = lock::attachment(&request.paths, id, ifname, wait) else { return Ok(()) };
    let record = match Record::load(&request.paths, id, ifname) {
        Ok(Some(record)) if record.phase == Phase::Added && record.result.is_some() => record,
        Ok(None) => {
            lock.remove();
            return Ok(());
        }
        _ => return Ok(()),
    };
    // Of an adopted pod, the first list is the one that it is attached by now.
    let Some(list) =
        record.del.first().filter(|list| !list.disable_check && convert::at_least(&list.cni_version, "0.4.0"))
    else {
        return Ok(());
    };
    lock.inherit()?;
    let deadline = Instant::now() + request.limits.check();
    let mut invocation = request.input.invocation.clone();
    if !list.args.is_empty() {
        invocation.args.clone_from(&list.args);
    }
    let cached = chain::cached(list, record.result.as_ref());
    let failures = chain::each("CHECK", list, &invocation, chain::previous(cached.as_ref()).as_slice(), deadline);
    if failures.is_empty() { Ok(()) } else { Err(chain::join(&failures)) }
}

/// Detaches what the shim attached and the runtime no longer knows. Sandboxes older than the shim are not its business, nor
/// is what a nodectl run attaches for itself.
pub fn gc(request: &Request) -> Result<(), Error> {
    let named = ["cni.dev/valid-attachments", "cni.dev/attachments"];
    // Absent or null: the runtime does not say what is valid (cnitool), so nothing is known to be invalid.
    let Some(valid) = named.iter().find_map(|key| request.input.config.get(*key).filter(|valid| !valid.is_null()))
    else {
        return Ok(());
    };
    let keep = attachments(valid).ok_or_else(|| {
        let why = "nothing was done. To fix it: see the runtime's version; CNI 1.1.0 wants a list of them";
        Error::new(error::DECODE, "cni.dev/valid-attachments does not name containers and interfaces", why)
    })?;
    let deadline = Instant::now() + request.limits.gc();
    let mut failures = Vec::new();
    for record in Record::list(&request.paths)?.0 {
        let is_valid = keep.contains(&(record.container_id.as_str(), record.ifname.as_str()));
        if is_valid || record.imported || record.run().is_some() {
            continue;
        }
        if Instant::now() >= deadline {
            let fix = "what is left stays recorded. To fix it: run \"nodectl shim reap\" on this node";
            failures.push(ours(request, Error::new(error::TRY_LATER, "there was no time left to delete all", fix)));
            break;
        }
        failures.extend(collect(request, &record, deadline));
    }
    let more = named.map(|key| (key, valid));
    for backend in Backend::ALL {
        let Ok(list) = request.backends.list(&request.paths, backend, true) else { continue };
        if list.disable_gc || !convert::at_least(&list.cni_version, "1.1.0") {
            continue;
        }
        let network = list.name.clone();
        match list.resolve(&request.input.invocation.cni_path) {
            Ok(run) => failures.extend(chain::each("GC", &run, &request.input.invocation, &more, deadline)),
            Err(error) => failures.push(Failure { plugin: backend.to_string(), network, error }),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(chain::join(&failures)) }
}

/// Container and interface of each attachment; `None` if one of them cannot be told: it would pass for a dead one.
fn attachments(valid: &Value) -> Option<HashSet<(&str, &str)>> {
    let entries = valid.as_array()?.iter();
    entries.map(|entry| Some((entry.get("containerID")?.as_str()?, entry.get("ifname")?.as_str()?))).collect()
}

fn ours(request: &Request, error: Error) -> Failure {
    Failure { plugin: TYPE.to_owned(), network: request.input.name.clone(), error }
}

/// Detaches one of them, unless a call or a delegate is at work on it, or its DEL has come meanwhile.
fn collect(request: &Request, record: &Record, deadline: Instant) -> Vec<Failure> {
    let (id, ifname) = (&record.container_id, &record.ifname);
    let lock = match lock::attachment(&request.paths, id, ifname, Duration::ZERO) {
        Ok(Some(lock)) => lock,
        Ok(None) => return Vec::new(),
        Err(error) => return vec![ours(request, error)],
    };
    match Record::load(&request.paths, id, ifname) {
        Ok(Some(record)) => {
            let invocation = delete::unattended(&record);
            let within = deadline.saturating_duration_since(Instant::now());
            let terms = Terms { network: &request.input.name, unasked: true, within, defer: false };
            delete::finish(&request.paths, record, &invocation, terms, lock).err().unwrap_or_default()
        }
        Ok(None) => {
            lock.remove();
            Vec::new()
        }
        Err(cause) => {
            let fix = format!("{}. To fix it: run \"nodectl shim reap\" on this node", cause.details);
            let cause = if cause.details.contains("To fix it: ") { cause } else { Error { details: fix, ..cause } };
            vec![ours(request, cause)]
        }
    }
}

/// Says whether an ADD would succeed. During a hold it says yes: the node must not become NotReady.
pub fn status(request: &Request) -> Result<(), Error> {
    let unavailable = |code, cause: Error| Error::new(code, cause.msg, cause.details);
    let state = State::load(&request.paths).map_err(|cause| unavailable(error::UNAVAILABLE, cause))?;
    let route = state.map_or(Route::To(request.default), |state| state.route(None, file::since_boot_ms()));
    let Route::To(backend) = route else { return Ok(()) };
    let deadline = Instant::now() + request.limits.status();
    ready(request, backend, deadline).map_err(|cause| {
        let other = backend.other();
        let with_pods =
            Record::list(&request.paths).is_ok_and(|(all, _)| all.iter().any(|record| record.backend == other));
        // A delegate may say the worse by itself.
        let limited = cause.code == error::LIMITED || with_pods && ready(request, other, deadline).is_err();
        unavailable(if limited { error::LIMITED } else { error::UNAVAILABLE }, cause)
    })
}

fn ready(request: &Request, backend: Backend, deadline: Instant) -> Result<(), Error> {
    let list = request.backends.list(&request.paths, backend, true)?;
    // By plugin: Canal, which plays flannel's part, has Calico's.
    subnet_file(request, &list)?;
    calico_files(request, &list)?;
    if request.input.invocation.cni_path.is_empty() {
        return Ok(());
    }
    let run = list.resolve(&request.input.invocation.cni_path)?;
    if !convert::at_least(&run.cni_version, "1.1.0") {
        return Ok(());
    }
    let failures = chain::each("STATUS", &run, &request.input.invocation, &[], deadline);
    if failures.is_empty() { Ok(()) } else { Err(chain::join(&failures)) }
}

/// flannel's ADD cannot succeed before flanneld has written its subnet file (after a boot: /run is empty).
pub fn subnet_file(request: &Request, list: &List) -> Result<(), Error> {
    let Some(plugin) = list.plugins.iter().find(|plugin| plugin.get("type") == Some(&json!("flannel"))) else {
        return Ok(());
    };
    let path = plugin.get("subnetFile").and_then(Value::as_str).unwrap_or("/run/flannel/subnet.env");
    let path = request.paths.node(path);
    if std::fs::read_to_string(&path).is_ok_and(|text| text.contains("FLANNEL_MTU=")) {
        return Ok(());
    }
    let fix = format!("flanneld has not written {}. To fix it: see the log of its pod on this node", path.display());
    Err(Error::new(error::TRY_LATER, "flannel is not ready on this node", fix))
}

fn calico_files(request: &Request, list: &List) -> Result<(), Error> {
    let Some(plugin) = list.plugins.iter().find(|plugin| plugin.get("type") == Some(&json!("calico"))) else {
        return Ok(());
    };
    let optional = plugin.get("nodename_file_optional") == Some(&Value::Bool(true));
    let nodename = plugin.get("nodename_file").and_then(Value::as_str).unwrap_or("/var/lib/calico/nodename");
    let kubeconfig = plugin.get("kubernetes").and_then(|kubernetes| kubernetes.get("kubeconfig")?.as_str());
    for path in kubeconfig.into_iter().chain(Some(nodename).filter(|_| !optional)) {
        let path = request.paths.node(path);
        if !path.is_file() {
            let fix =
                format!("{} is missing. To fix it: see the log of the calico-node pod on this node", path.display());
            return Err(Error::new(error::UNAVAILABLE, "Calico is not ready on this node", fix));
        }
    }
    Ok(())
}
