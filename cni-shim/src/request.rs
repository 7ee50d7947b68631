//! What the runtime asks, and what stands about the shim itself in its conflist.

use cni_spec::chain::argument;
use cni_spec::error::{self, Error};
use cni_spec::skel::{Input, Verb};
use cni_store::Paths;
use cni_store::backends::Backends;
use cni_store::state::Backend;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

macro_rules! limits {
    ($($name:ident $milliseconds:literal $what:literal)*) => {
        /// How long things may take, in milliseconds: less than the runtimes' own limits (kubelet gives ADD 240 s, CRI-O DEL 60 s
        /// and GC 30 s, containerd the DEL after a failed ADD 60 s). May be set in the conflist as "deadlinesMs".
        #[derive(Clone, Copy, Debug, Deserialize)]
        #[serde(default)]
        pub struct Limits { $($name: u64),* }

        impl Default for Limits { fn default() -> Self { Self { $($name: $milliseconds),* } } }

        impl Limits { $(#[doc = $what] pub fn $name(&self) -> Duration { Duration::from_millis(self.$name) })* }
    };
}

limits! {
    begin 80_000 "How long an ADD may take to its first delegate: in a hold, for locks, for the DEL of an earlier call, all together."
    hold 60_000 "How long an ADD waits in a hold."
    add 100_000 "How long an ADD's delegates may take."
    undo 45_000 "The DEL of a failed ADD."
    lock 30_000 "How long another call for the same attachment is waited for."
    del 45_000 "A DEL."
    check 45_000 "A CHECK."
    gc 25_000 "A GC."
    status 4_000 "A STATUS."
}

/// A call of the shim.
#[derive(Debug)]
pub struct Request {
    /// What the runtime said.
    pub input: Input,
    /// Where things are.
    pub paths: Paths,
    /// The backends' conflists.
    pub backends: Backends,
    /// The backend while there is no state.
    pub default: Backend,
    /// How long things may take.
    pub limits: Limits,
}

/// The shim's entry in its conflist.
#[derive(Deserialize)]
struct Settings {
    #[serde(default, rename = "stateDir")]
    state_dir: Option<PathBuf>,
    #[serde(default)]
    root: Option<PathBuf>,
    #[serde(default)]
    default: Option<Backend>,
    #[serde(default)]
    backends: Conflists,
    #[serde(default, rename = "deadlinesMs")]
    limits: Limits,
}

#[derive(Default, Deserialize)]
struct Conflists {
    flannel: Option<PathBuf>,
    calico: Option<PathBuf>,
}

impl Request {
    /// Reads and checks the request. `version` becomes the configuration's as soon as it is known to be supported.
    pub fn read(verb: Verb, version: &mut String) -> Result<Self, Error> {
        Self::of(Input::read(verb, version)?)
    }

    /// Reads and checks the shim's own settings in the configuration.
    pub fn of(input: Input) -> Result<Self, Error> {
        let invalid = |why: &str| {
            let fix = format!("{why}. To fix it: let nodectl write the conflist");
            Error::new(error::CONFIG, "the conflist's entry for cni-shim is invalid", fix)
        };
        let settings = Settings::deserialize(&input.config).map_err(|cause| invalid(&cause.to_string()))?;
        let root = settings.root.unwrap_or_else(|| PathBuf::from("/"));
        let state_dir = settings.state_dir.unwrap_or_else(|| Paths::under(&root).state_dir().to_owned());
        let usual = Backends::default();
        let backends = Backends {
            network: input.name.clone(),
            flannel: settings.backends.flannel.unwrap_or(usual.flannel),
            calico: settings.backends.calico.unwrap_or(usual.calico),
        };
        // A relative one would lie wherever the runtime happens to stand.
        let places = [&root, &state_dir, &backends.flannel, &backends.calico];
        if let Some(place) = places.into_iter().find(|place| !place.is_absolute()) {
            return Err(invalid(&format!("{place:?} is not an absolute path")));
        }
        Ok(Self {
            input,
            paths: Paths::new(root, state_dir),
            backends,
            default: settings.default.unwrap_or(Backend::Flannel),
            limits: settings.limits,
        })
    }

    /// The attachment that it is about: container and interface.
    pub fn attachment(&self) -> (&str, &str) {
        (&self.input.invocation.container_id, &self.input.invocation.ifname)
    }

    /// How long a lock may be waited for by a call that has to be further at an instant.
    pub fn lock_wait(&self, by: Instant) -> Duration {
        self.limits.lock().min(by.saturating_duration_since(Instant::now()))
    }

    /// The nodectl run that this ADD belongs to: its own attachment, for which a hold does not count.
    pub fn run(&self) -> Option<&str> {
        argument(&self.input.invocation.args, "NODECTL_RUN")
    }
}
