//! DEL: what was recorded, or what the evidence tells; whatever the state is now.

use cni_shim::request::Request;
use cni_spec::chain;
use cni_spec::error::{self, Error};
use cni_store::delete::{self, Terms};
use cni_store::evidence::{self, Sought};
use cni_store::holds::Hold;
use cni_store::pending::Pending;
use cni_store::record::Record;
use cni_store::state::State;
use cni_store::{file, lock};
use std::time::{Duration, Instant};

/// How long a DEL may take whose failure is kept for later.
const DEFERRED: Duration = Duration::from_secs(8);

/// Detaches the sandbox. A sandbox of which nothing is left is a success.
pub fn run(request: &Request) -> Result<(), Error> {
    by(request, Instant::now() + request.limits.del())
}

/// The same, to be done at a deadline.
pub fn by(request: &Request, deadline: Instant) -> Result<(), Error> {
    let (id, ifname) = request.attachment();
    let paths = &request.paths;
    Hold::remove(paths, id, ifname)?;
    let Some(lock) = lock::attachment(paths, id, ifname, request.lock_wait(deadline))? else {
        return Err(overtaken(request));
    };
    // Again: an ADD may have begun to wait since.
    Hold::remove(paths, id, ifname)?;
    let found = find(request).inspect_err(|cause| {
        // A backend's conflist that cannot be used just now. Nothing has been run, and a runtime may not ask again.
        if cause.code == error::TRY_LATER {
            note(request, None, cause);
        }
    });
    let Some(mut record) = found? else {
        Pending::remove(paths, id, ifname)?;
        lock.remove();
        return Ok(());
    };
    for list in record.del.iter_mut().filter(|list| list.runtime_config.is_empty()) {
        list.runtime_config.clone_from(&request.input.runtime_config);
    }
    let defer = State::load(paths).ok().flatten().is_some_and(|state| state.defer_failed_del);
    let left = deadline.saturating_duration_since(Instant::now());
    // While failures are kept for later, an API server that hangs must not cost each pod the whole time.
    let within = if defer { left.min(DEFERRED) } else { left };
    let terms = Terms { network: &request.input.name, unasked: false, within, defer };
    delete::finish(paths, record, &request.input.invocation, terms, lock).map_err(|failures| chain::join(&failures))
}

/// The ADD, or a delegate that outlived it, is still at work. The note makes it undo itself when it ends, and nodectl see to
/// it if it cannot: a runtime may never ask again.
fn overtaken(request: &Request) -> Error {
    let (id, ifname) = request.attachment();
    let error = lock::busy(&request.paths, id, ifname);
    let record = Record::load(&request.paths, id, ifname).ok().flatten();
    note(request, record.as_ref(), &error);
    error
}

fn note(request: &Request, record: Option<&Record>, error: &Error) {
    let args = &request.input.invocation.args;
    if let Err(cause) = Pending::note_asked(&request.paths, request.attachment(), record, args, error) {
        error::log(&cause);
    }
}

fn find(request: &Request) -> Result<Option<Record>, Error> {
    let (id, ifname) = request.attachment();
    let torn = match Record::load(&request.paths, id, ifname) {
        Ok(Some(record)) => return Ok(Some(record)),
        Ok(None) => None,
        Err(cause) if cause.code == error::CONFIG => return Err(cause),
        Err(cause) => Some(cause),
    };
    match Pending::load(&request.paths, id, ifname) {
        Ok(Some(Pending { record: Some(record), .. })) => return Ok(Some(record)),
        Err(cause) if cause.code == error::CONFIG => return Err(cause),
        _ => {}
    }
    if let Some(cause) = &torn {
        error::log(format!("{cause}; going by other evidence"));
    }
    let (args, cni_path) = (request.input.invocation.args.as_str(), request.input.invocation.cni_path.as_str());
    let sought = Sought { container_id: id, ifname, args, cni_path, torn: torn.is_some() };
    let found = evidence::import_record(&request.paths, &request.backends, &sought)?;
    if found.is_none() {
        // Nothing can be run for a torn record when neither backend has a conflist: then nothing of it is left either.
        file::remove(&request.paths.record(id, ifname))?;
    }
    Ok(found)
}
