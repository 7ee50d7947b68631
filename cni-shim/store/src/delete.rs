//! The DEL of a recorded attachment: by the runtime, by GC, by nodectl, or to undo an ADD.

use crate::lock::Lock;
use crate::pending::Pending;
use crate::record::{Phase, Record};
use crate::{Paths, file, scratch};
use cni_spec::chain::{self, DelList, Failure, Invocation, PluginCall};
use cni_spec::conflist;
use cni_spec::error::{self, Error};
use std::path::Path;
use std::time::{Duration, Instant};

/// Runs every list of the record in order, each list's plugins backwards, on past failures. Removes nothing of the record.
///
/// `invocation` is the runtime's; where the record knows better (CNI_ARGS, capability arguments), the record wins.
pub fn replay(paths: &Paths, record: &mut Record, invocation: &Invocation, deadline: Instant) -> Vec<Failure> {
    let saved = scratch::save(paths, record);
    if record.phase != Phase::Deleting || saved {
        record.phase = Phase::Deleting;
        // On a full disk the DEL goes on without this note.
        if let Err(cause) = record.store(paths, false) {
            error::log(&cause);
        }
    }
    scratch::restore(paths, record);
    let mut left = record.del.iter().map(|list| list.plugins.len()).sum::<usize>();
    let mut failures = Vec::new();
    for list in &record.del {
        for plugin in list.plugins.iter().rev() {
            left = left.saturating_sub(1);
            let done = one(record, list, plugin, invocation, share(deadline, left));
            if let Err(error) = done {
                failures.push(Failure { plugin: plugin.kind.clone(), network: list.network.clone(), error });
                if plugin.kind == "flannel" {
                    scratch::restore(paths, record);
                }
            }
        }
    }
    failures
}

/// Half of what is left while others wait behind, so that one hanging plugin does not keep the rest from being cleaned up.
fn share(deadline: Instant, others: usize) -> Instant {
    let left = deadline.saturating_duration_since(Instant::now());
    if others == 0 { deadline } else { deadline - left / 2 }
}

fn one(
    record: &Record,
    list: &DelList,
    plugin: &PluginCall,
    invocation: &Invocation,
    deadline: Instant,
) -> Result<(), Error> {
    let mut invocation = invocation.clone();
    if !list.args.is_empty() {
        invocation.args.clone_from(&list.args);
    }
    if invocation.cni_path.is_empty() {
        invocation.cni_path = cni_path(record);
    }
    let mut plugin = plugin.clone();
    if !plugin.path.is_file() {
        plugin.path = conflist::find_in_path(&invocation.cni_path, &plugin.kind).ok_or_else(|| {
            let msg = format!("the plugin \"{}\" is missing, so the pod's network is not cleaned up", plugin.kind);
            let fix = format!("{} is gone. To fix it: install it again", plugin.path.display());
            Error::new(error::IO, msg, fix)
        })?;
    }
    let previous = chain::cached(list, record.result.as_ref());
    let previous = chain::previous(previous.as_ref());
    chain::call("DEL", list, &plugin, &invocation, previous.as_slice(), deadline).map(drop)
}

fn cni_path(record: &Record) -> String {
    if !record.cni_path.is_empty() {
        return record.cni_path.clone();
    }
    let plugins = record.del.iter().flat_map(|list| &list.plugins);
    let mut dirs: Vec<_> = plugins.filter_map(|plugin| plugin.path.parent()?.to_str()).collect();
    dirs.dedup();
    dirs.join(":")
}

/// What to tell the delegates when no runtime asks: the recorded values. The netns is left out unless it is a file that can
/// only be this sandbox's: a /proc path may by now be another process.
pub fn unattended(record: &Record) -> Invocation {
    let netns = Path::new(&record.netns);
    let usable = netns.exists() && !netns.starts_with("/proc");
    Invocation {
        container_id: record.container_id.clone(),
        ifname: record.ifname.clone(),
        netns: if usable { record.netns.clone() } else { String::new() },
        args: String::new(),
        cni_path: cni_path(record),
    }
}

/// Forgets an attachment whose DEL has succeeded: its record, its pending DEL, libcni's cached results under the networks'
/// own names (a DEL that the runtime sends under the shim's name does not remove those), where no runtime asks also that under the
/// shim's name, and last its lock.
fn forget(paths: &Paths, record: &Record, terms: Terms<'_>, lock: Lock) -> Result<(), Error> {
    let mut networks: Vec<_> = record.del.iter().map(|list| list.network.as_str()).collect();
    networks.retain(|network| *network != terms.network);
    networks.extend(Some(terms.network).filter(|own| terms.unasked && !own.is_empty()));
    for network in networks {
        for results in paths.results() {
            file::remove(&results.join(format!("{network}-{}-{}", record.container_id, record.ifname)))?;
        }
    }
    Pending::remove(paths, &record.container_id, &record.ifname)?;
    record.remove(paths)?;
    lock.remove();
    Ok(())
}

/// How a DEL is to be finished.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The name of the shim's own network, under which a runtime asks; empty where it is not known.
    pub network: &'a str,
    /// No runtime asks: nobody else will remove libcni's cached result.
    pub unasked: bool,
    /// How long it may take.
    pub within: Duration,
    /// On failure, leave it to nodectl and call it a success.
    pub defer: bool,
}

/// Replays the DEL of a record under its lock and forgets the attachment; or else keeps it, and leaves a pending DEL.
pub fn finish(
    paths: &Paths,
    mut record: Record,
    invocation: &Invocation,
    terms: Terms<'_>,
    lock: Lock,
) -> Result<(), Vec<Failure>> {
    let network = terms.network.to_owned();
    let fail = |error| vec![Failure { plugin: conflist::TYPE.to_owned(), network, error }];
    if let Err(cause) = lock.inherit() {
        return Err(fail(cause));
    }
    let failures = replay(paths, &mut record, invocation, Instant::now() + terms.within);
    if failures.is_empty() {
        return forget(paths, &record, terms, lock).map_err(fail);
    }
    let noted = Pending::note(paths, &record.container_id, &record.ifname, Some(&record), &chain::join(&failures));
    match noted {
        Ok(()) if terms.defer => {
            chain::log("left for nodectl to finish", &failures);
            record.remove(paths).map_err(fail)
        }
        noted => {
            noted.unwrap_or_else(|cause| error::log(&cause));
            Err(failures)
        }
    }
}
