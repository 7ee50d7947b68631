//! ADD: wait out a hold, write down what is going to happen, run the backend's chain, and undo it if it fails.

use cni_shim::request::Request;
use cni_spec::chain::{self, Failure};
use cni_spec::error::{self, Error};
use cni_spec::{convert, process};
use cni_store::delete::{self, Terms};
use cni_store::holds::Hold;
use cni_store::lock::{self, Lock};
use cni_store::pending::Pending;
use cni_store::record::{FORMAT, Phase, Pod, Record};
use cni_store::state::{Backend, Route, State};
use cni_store::{file, scratch};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::Value;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

/// How often a waiting ADD looks whether the hold's owner still lives: a death changes no file.
const OWNER_TICK: Duration = Duration::from_secs(1);
/// How often, and with what pauses, to read a conflist that is missing or half written before its copy is used.
const READS: u32 = 4;
const READ_PAUSE: Duration = Duration::from_millis(50);
/// What to do where an ADD comes to nothing because nobody wants it any more.
const AGAIN: &str = "there is nothing to do: nothing is attached, and the kubelet tries again with a new sandbox";

/// Attaches the sandbox and gives the result in the runtime's version.
pub fn run(request: &Request) -> Result<Value, Error> {
    // One deadline for all that comes before the first delegate: each of these waits may come several times.
    let begin_by = Instant::now() + request.limits.begin();
    let mut waiting: Option<Waiting<'_>> = None;
    let mut reads = 1;
    loop {
        // Nothing is locked while waiting, so that a DEL can come meanwhile.
        let lock = locked(request, begin_by)?;
        if waiting.as_ref().is_some_and(|waiting| !waiting.marker.is_wanted(&request.paths)) {
            lock.remove();
            let late = "a DEL for this sandbox came while its ADD waited";
            return Err(Error::new(error::TRY_LATER, late, AGAIN));
        }
        let lock = clear(request, lock, begin_by)?;
        let next = match begin(request, reads == READS, begin_by) {
            Ok(Begin::Attach(record)) => {
                drop(waiting);
                return attach(request, *record, lock);
            }
            next => next,
        };
        // There is no record, so there is nothing to lock.
        lock.remove();
        match (next?, &waiting) {
            (Begin::Wait(state), Some(waiting)) => waiting.sleep(&state)?,
            // The state may have changed before the watch began: look again first.
            (Begin::Wait(_), None) => waiting = Some(Waiting::start(request, begin_by)?),
            _ => {
                reads += 1;
                std::thread::sleep(READ_PAUSE);
            }
        }
    }
}

fn locked(request: &Request, begin_by: Instant) -> Result<Lock, Error> {
    let (id, ifname) = request.attachment();
    let lock = lock::attachment(&request.paths, id, ifname, request.lock_wait(begin_by))?;
    lock.ok_or_else(|| lock::busy(&request.paths, id, ifname))
}

/// Deals with what an earlier call for the same attachment has left.
fn clear(request: &Request, lock: Lock, begin_by: Instant) -> Result<Lock, Error> {
    let (id, ifname) = request.attachment();
    let record = Record::load(&request.paths, id, ifname);
    if let Ok(Some(Record { phase: Phase::Added, backend, .. })) = &record {
        // Not undone: that would tear down a live attachment.
        let why = format!("{backend} made it. To fix it: let the runtime send a DEL first, as `crictl stopp` does");
        return Err(Error::new(error::ATTACHED, format!("{ifname} of {id} is attached already"), why));
    }
    let pending = Pending::load(&request.paths, id, ifname);
    if matches!((&record, &pending), (Ok(None), Ok(None))) {
        return Ok(lock);
    }
    drop(lock);
    crate::del::by(request, begin_by.min(Instant::now() + request.limits.del()))?;
    match Pending::load(&request.paths, id, ifname) {
        Ok(None) => locked(request, begin_by),
        _ => Err(Error::new(
            error::TRY_LATER,
            format!("an earlier {ifname} of {id} is not cleaned up yet"),
            "To fix it: run \"nodectl shim reap\" on this node",
        )),
    }
}

enum Begin {
    Attach(Box<Record>),
    ReadAgain,
    Wait(Box<State>),
}

/// Chooses the backend, once, and writes the intent: all under the shared state lock, so that a change of the state sees
/// either this ADD's record or none of it.
fn begin(request: &Request, last_read: bool, begin_by: Instant) -> Result<Begin, Error> {
    let paths = &request.paths;
    let _lock = lock::state(paths, false, request.lock_wait(begin_by))?;
    let backend = match State::load(paths)? {
        // No state yet: never a guess from the files that happen to be there.
        None => {
            let (missing, default) = (paths.state(), request.default);
            error::log(format!("{} is missing, so this pod gets the default, {default}", missing.display()));
            default
        }
        Some(state) => match state.route(request.run(), file::since_boot_ms()) {
            Route::To(backend) => backend,
            Route::Wait => return Ok(Begin::Wait(Box::new(state))),
        },
    };
    let list = match request.backends.list(paths, backend, last_read) {
        Err(_) if !last_read => return Ok(Begin::ReadAgain),
        list => list?,
    };
    if backend == Backend::Flannel {
        crate::watch::subnet_file(request, &list)?;
    }
    let said = &request.input.invocation;
    let declared = list.declared(&request.input.runtime_config);
    let mut run = list.resolve(&said.cni_path)?;
    run.runtime_config = declared;
    run.args.clone_from(&said.args);
    let mut record = Record::new(&said.container_id, &said.ifname, backend, vec![run]);
    record.netns.clone_from(&said.netns);
    record.cni_path.clone_from(&said.cni_path);
    record
        .store(paths, false)
        .map_err(|cause| Error { details: format!("Nothing was done: {}", cause.details), ..cause })?;
    Ok(Begin::Attach(Box::new(record)))
}

/// Runs the chain. The attachment lock goes to the delegates, so that whoever comes after a killed shim waits for them.
fn attach(request: &Request, mut record: Record, lock: Lock) -> Result<Value, Error> {
    let done = lock.inherit().and_then(|()| chained(request, &record));
    match done {
        Ok((result, answer)) => {
            record.phase = Phase::Added;
            record.result = Some(result);
            scratch::save(&request.paths, &mut record);
            // The intent is enough for a DEL: a full disk is no reason to fail a pod that is attached.
            if let Err(cause) = record.complete(&request.paths) {
                error::log(&cause);
            }
            match Pending::load(&request.paths, &record.container_id, &record.ifname) {
                Ok(None) => {
                    // The process ends: see kept().
                    std::mem::forget(record);
                    Ok(answer)
                }
                _ => {
                    let late = "a DEL for this sandbox came while its ADD was at work; it is undone";
                    undo(request, record, lock);
                    Err(Error::new(error::TRY_LATER, late, AGAIN))
                }
            }
        }
        Err(cause) => {
            undo(request, record, lock);
            Err(cause)
        }
    }
}

/// The chain's result in the list's version, to keep, and in the runtime's, to answer.
fn chained(request: &Request, record: &Record) -> Result<(Value, Value), Error> {
    let deadline = Instant::now() + request.limits.add();
    let list = record.del.first().ok_or_else(|| Error::new(error::CONFIG, "the record has no list", AGAIN))?;
    let result = chain::add(list, &request.input.invocation, request.input.previous.as_ref(), deadline)?;
    Ok((convert::result(result.clone(), &list.cni_version)?, convert::result(result, &request.input.version)?))
}

/// DEL over the whole chain, also over the plugins that were never reached. The runtime gets the ADD's error; what could
/// not be undone stays recorded, and pending.
fn undo(request: &Request, record: Record, lock: Lock) {
    let terms = Terms { network: &request.input.name, unasked: false, within: request.limits.undo(), defer: false };
    let undone: Result<(), Vec<Failure>> =
        delete::finish(&request.paths, record, &request.input.invocation, terms, lock);
    chain::log("undoing the failed ADD", &undone.err().unwrap_or_default());
}

/// An ADD in a hold.
struct Waiting<'a> {
    request: &'a Request,
    /// `None`: the kernel's instances are used up (fs.inotify.max_user_instances is 128 for all of root's processes); then
    /// the tick has to do.
    watch: Option<Inotify>,
    marker: Hold,
    until: Instant,
}

impl<'a> Waiting<'a> {
    fn start(request: &'a Request, begin_by: Instant) -> Result<Self, Error> {
        let until = begin_by.min(Instant::now() + request.limits.hold());
        let dir = request.paths.state_dir();
        let watched = || -> nix::Result<Inotify> {
            let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            let changes = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_DELETE;
            watch.add_watch(dir, changes)?;
            Ok(watch)
        };
        let watch = watched().map_err(|cause| error::log(format!("cannot watch {}: {cause}", dir.display()))).ok();
        let (pid, now) = (std::process::id(), file::now_ms());
        let bound = until.saturating_duration_since(Instant::now()).as_millis();
        let said = &request.input.invocation;
        let marker = Hold {
            format: FORMAT,
            container_id: said.container_id.clone(),
            ifname: said.ifname.clone(),
            pod: Pod::from_args(&said.args),
            since_ms: now,
            deadline_ms: now.saturating_add(u64::try_from(bound).unwrap_or(u64::MAX)),
            pid,
            started: process::started(pid),
        };
        marker.store(&request.paths)?;
        Ok(Self { request, watch, marker, until })
    }

    /// Returns when the state may have changed or the hold may have ended by itself; code 11 at the deadline.
    fn sleep(&self, state: &State) -> Result<(), Error> {
        let now = Instant::now();
        if now >= self.until {
            let run = state.owner.as_ref().map_or("", |owner| owner.run.as_str());
            let why =
                format!("new pods of this node wait for the nodectl run \"{run}\". The kubelet tries again by itself");
            return Err(Error::new(error::TRY_LATER, "the node is being switched to another CNI", why));
        }
        let ends = state.deadline_boot_ms.unwrap_or(u64::MAX);
        let left = Duration::from_millis(ends.saturating_sub(file::since_boot_ms()).saturating_add(1));
        let nap = OWNER_TICK.min(self.until - now).min(left);
        let mut fds: Vec<_> = self.watch.iter().map(|watch| PollFd::new(watch.as_fd(), PollFlags::POLLIN)).collect();
        let _ = poll(&mut fds, PollTimeout::try_from(nap).unwrap_or(PollTimeout::MAX));
        // One wake-up takes all events; that there are none is fine too.
        let _ = self.watch.as_ref().map(Inotify::read_events);
        Ok(())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.marker.is_wanted(&self.request.paths) {
            let _ = Hold::remove(&self.request.paths, &self.marker.container_id, &self.marker.ifname);
        }
    }
}
