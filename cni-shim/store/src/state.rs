//! Where new pods go: `state.json`, written by nodectl, read by every ADD.

use crate::{Paths, file, lock};
use cni_spec::error::{self, Error};
use cni_spec::process;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;

/// The version of `state.json` that this code writes.
pub const FORMAT: u32 = 1;

/// The field of the file that is over all others.
const CHECKSUM: &str = "checksum";

/// How long a writer waits for the ADDs that are reading.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// One of the two CNIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// flannel's conflist.
    Flannel,
    /// Calico's conflist.
    Calico,
}

impl Backend {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Flannel, Self::Calico];

    /// The one that this is not.
    pub fn other(self) -> Self {
        match self {
            Self::Flannel => Self::Calico,
            Self::Calico => Self::Flannel,
        }
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Flannel => "flannel",
            Self::Calico => "calico",
        })
    }
}

/// What an ADD does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It goes to flannel.
    Flannel,
    /// It goes to Calico.
    Calico,
    /// It waits until the state changes.
    Hold,
}

impl From<Backend> for Mode {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Flannel => Self::Flannel,
            Backend::Calico => Self::Calico,
        }
    }
}

/// The nodectl run that a hold belongs to. A hold does not outlive its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The run's id.
    pub run: String,
    /// The process that will end the hold.
    pub pid: u32,
    /// The boot in which that process runs.
    pub boot_id: String,
    /// When it started, in clock ticks since boot: tells it from a later process with the same pid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<u64>,
}

impl Owner {
    /// This process, as the owner of a hold.
    pub fn this_process(run: impl Into<String>) -> Self {
        let pid = std::process::id();
        Self { run: run.into(), pid, boot_id: file::boot_id(), started: process::started(pid) }
    }

    /// Whether the owner still runs.
    pub fn is_alive(&self) -> bool {
        let start = process::started(self.pid);
        self.boot_id == file::boot_id() && start.is_some() && (self.started.is_none() || self.started == start)
    }
}

/// The routing state of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// [`FORMAT`].
    pub format: u32,
    /// What an ADD does now.
    pub mode: Mode,
    /// During a hold: where ADDs go if the hold ends by itself.
    #[serde(default)]
    pub before: Option<Backend>,
    /// During a hold: where ADDs will go; the run's own ADD goes there already.
    #[serde(default)]
    pub next: Option<Backend>,
    /// During a hold: whose it is.
    #[serde(default)]
    pub owner: Option<Owner>,
    /// When this state was entered, in Unix milliseconds.
    #[serde(default)]
    pub since_ms: u64,
    /// During a hold: when it ends by itself, in milliseconds since the boot. A clock that is set must not end it.
    #[serde(default)]
    pub deadline_boot_ms: Option<u64>,
    /// A DEL whose delegates fail is kept for later and answered with success (for a dead API server).
    #[serde(default)]
    pub defer_failed_del: bool,
    /// Counts the changes.
    #[serde(default)]
    pub generation: u64,
}

/// What the state says about one ADD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Run this backend's chain.
    To(Backend),
    /// Wait for a change.
    Wait,
}

impl State {
    /// The state that sends new pods to one backend.
    pub fn routed(backend: Backend) -> Self {
        Self {
            format: FORMAT,
            mode: backend.into(),
            before: None,
            next: None,
            owner: None,
            since_ms: file::now_ms(),
            deadline_boot_ms: None,
            defer_failed_del: false,
            generation: 0,
        }
    }

    /// The state in which new pods wait, at most for `bound`, on their way from one backend to another.
    pub fn hold(before: Backend, next: Backend, owner: Owner, bound: Duration) -> Self {
        let bound = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX);
        let (before, next, owner) = (Some(before), Some(next), Some(owner));
        let deadline_boot_ms = Some(file::since_boot_ms().saturating_add(bound));
        Self { mode: Mode::Hold, before, next, owner, deadline_boot_ms, ..Self::routed(Backend::Flannel) }
    }

    /// Where an ADD goes at `now`, in milliseconds since the boot; `run` is the nodectl run that the ADD says it belongs to.
    pub fn route(&self, run: Option<&str>, now: u64) -> Route {
        let before = match self.mode {
            Mode::Flannel => return Route::To(Backend::Flannel),
            Mode::Calico => return Route::To(Backend::Calico),
            Mode::Hold => self.before,
        };
        let owner = self.owner.as_ref();
        match (before, self.next) {
            (_, Some(next)) if run.is_some() && run == owner.map(|owner| owner.run.as_str()) => Route::To(next),
            (Some(before), _) if !self.hold_lasts(now) => Route::To(before),
            _ => Route::Wait,
        }
    }

    fn hold_lasts(&self, now: u64) -> bool {
        let expired = self.deadline_boot_ms.is_some_and(|deadline| now >= deadline);
        !expired && self.owner.as_ref().is_some_and(Owner::is_alive)
    }

    /// Reads the state, or its last good copy if the file is missing or torn. `None` if there was never one: the shim's
    /// conflist then names the backend. Code 11 if neither can be used.
    pub fn load(paths: &Paths) -> Result<Option<Self>, Error> {
        let first = match Self::read(&paths.state()) {
            Ok(Some(state)) => return Ok(Some(state)),
            Ok(None) => None,
            Err(cause) => Some(cause),
        };
        match (Self::read(&paths.state_copy()), first) {
            (Ok(Some(state)), _) => Ok(Some(state)),
            (Ok(None), None) => Ok(None),
            (Ok(None), Some(cause)) | (Err(cause), _) => Err(Error::new(
                error::TRY_LATER,
                "the shim cannot tell where new pods go: its state is unreadable, and so is the copy",
                format!(
                    "{cause}. To fix it: run \"nodectl status\" on this node; or write {} anew",
                    paths.state().display()
                ),
            )),
        }
    }

    fn read(path: &std::path::Path) -> Result<Option<Self>, Error> {
        let Some(fields) = file::read_json(path)? else { return Ok(None) };
        let unusable = |why: String| Error::new(error::DECODE, format!("{} cannot be used", path.display()), why);
        Self::parse(fields).map(Some).map_err(unusable)
    }

    /// A state from the fields of its file; says why it cannot be one. Without a checksum, it was written by hand.
    pub fn parse(mut fields: Map<String, Value>) -> Result<Self, String> {
        let sum = fields.shift_remove(CHECKSUM);
        if sum.is_some_and(|sum| sum.as_str() != Some(&checksum(&fields))) {
            return Err("its checksum is wrong".to_owned());
        }
        let state: Self = serde_json::from_value(Value::Object(fields)).map_err(|cause| cause.to_string())?;
        match state {
            Self { format, .. } if format == 0 || format > FORMAT => {
                Err(format!("it has format {format}; this cni-shim reads up to {FORMAT}"))
            }
            Self { mode: Mode::Hold, before: None, .. } => Err("it is a hold without \"before\"".to_owned()),
            state => Ok(state),
        }
    }

    /// The fields of its file, with their checksum.
    pub fn fields(&self) -> serde_json::Result<Map<String, Value>> {
        let mut fields: Map<_, _> = serde_json::from_value(serde_json::to_value(self)?)?;
        let sum = checksum(&fields);
        fields.insert(CHECKSUM.to_owned(), sum.into());
        Ok(fields)
    }

    /// Makes this the node's state, durably; returns when every ADD that read an older one has written its intent.
    pub fn store(&self, paths: &Paths) -> Result<Self, Error> {
        Self::change(paths, |_| Ok(self.clone()))
    }

    /// Changes the state: reads it, applies `change`, writes it with the next generation, all under the exclusive lock.
    /// `change` sees `None` if there is no readable state.
    pub fn change(paths: &Paths, change: impl FnOnce(Option<Self>) -> Result<Self, Error>) -> Result<Self, Error> {
        let _lock = lock::state(paths, true, LOCK_WAIT)?;
        let current = Self::load(paths).unwrap_or_default();
        let generation = current.as_ref().map_or(0, |state| state.generation);
        let mut state = change(current)?;
        state.generation = generation.saturating_add(1);
        let fields = state.fields().map_err(Error::io("encode", &paths.state()))?;
        file::write_json(&paths.state(), &fields, true)?;
        file::write_json(&paths.state_copy(), &fields, true)?;
        Ok(state)
    }
}

/// FNV-1a of the fields as they are written: tells a file that a failing disk has changed, and protects from nobody.
fn checksum(fields: &Map<String, Value>) -> String {
    let text = serde_json::to_string(fields).unwrap_or_default();
    let sum = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{sum:016x}")
}
