//! What the runtime asks: environment and standard input, checked as libcni's skel checks them (pkg/skel/skel.go).

use crate::chain::Invocation;
use crate::conflist::Backends;
use crate::state::Backend;
use crate::{Error, Paths, convert, error, record};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::env::VarError;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Attach a sandbox.
    Add,
    /// Detach it.
    Del,
    /// Say whether it is still attached.
    Check,
    /// Detach all but the valid ones.
    Gc,
    /// Say whether an ADD can succeed.
    Status,
}

/// How long things may take, in milliseconds: less than the runtimes' own limits (kubelet gives ADD 240 s, CRI-O DEL 60 s
/// and GC 30 s, containerd the DEL after a failed ADD 60 s). May be set in the conflist as "deadlinesMs".
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default)]
pub struct Limits {
    begin: u64,
    hold: u64,
    add: u64,
    undo: u64,
    lock: u64,
    del: u64,
    check: u64,
    gc: u64,
    status: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let (begin, hold, add, undo, lock, del) = (80_000, 60_000, 100_000, 45_000, 30_000, 45_000);
        Self { begin, hold, add, undo, lock, del, check: 45_000, gc: 25_000, status: 4_000 }
    }
}

macro_rules! limits {
    ($($name:ident $what:literal)*) => {
        impl Limits { $(#[doc = $what] pub fn $name(&self) -> Duration { Duration::from_millis(self.$name) })* }
    };
}

limits! {
    begin "How long an ADD may take to its first delegate: in a hold, for locks, for the DEL of an earlier call, all together."
    hold "How long an ADD waits in a hold." add "How long an ADD's delegates may take." undo "The DEL of a failed ADD."
    lock "How long another call for the same attachment is waited for." del "A DEL." check "A CHECK." gc "A GC."
    status "A STATUS."
}

/// A checked request.
#[derive(Debug)]
pub struct Request {
    /// The environment.
    pub invocation: Invocation,
    /// The network's name as the runtime knows it.
    pub name: String,
    /// The CNI version in which to answer.
    pub version: String,
    /// The capability arguments.
    pub runtime_config: Map<String, Value>,
    /// The result of a plugin chained in front of the shim.
    pub previous: Option<Value>,
    /// All of standard input.
    pub config: Map<String, Value>,
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

/// The answer to VERSION: in the version that was asked in, if the runtime says.
pub fn version() -> Value {
    let asked = stdin().ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let asked =
        asked.as_ref().and_then(|config| config.get("cniVersion")?.as_str()).filter(|v| convert::is_supported(v));
    json!({"cniVersion": asked.unwrap_or("1.1.0"), "supportedVersions": convert::SUPPORTED})
}

fn stdin() -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let fix = "let the runtime hand over the network configuration there";
    let unreadable = |cause: std::io::Error| {
        Error::new(error::IO, "cannot read standard input", format!("{cause}. To fix it: {fix}"))
    };
    std::io::stdin().lock().take(16 << 20).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

impl Request {
    /// Reads and checks the request. `version` becomes the configuration's as soon as it is known to be supported.
    pub fn read(verb: Verb, version: &mut String) -> Result<Self, Error> {
        let invocation = environment(verb, |name| std::env::var(name))?;
        Self::parse(verb, invocation, &stdin()?, version)
    }

    /// Checks the request: what came on standard input, and the environment as [`environment`] gives it.
    pub fn parse(verb: Verb, invocation: Invocation, stdin: &[u8], version: &mut String) -> Result<Self, Error> {
        let config: Map<String, Value> = serde_json::from_slice(stdin)
            .map_err(|cause| Error::new(error::DECODE, "error unmarshall network config", mend(&cause.to_string())))?;
        let name = config.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        check(verb, &config, &name, version)?;
        let runtime_config = match config.get("runtimeConfig") {
            Some(Value::Object(given)) => given.clone(),
            // Without its host ports, a pod would only seem to be attached.
            Some(given) if verb == Verb::Add && !given.is_null() => {
                let why =
                    format!("it is {given}. To fix it: see the runtime's version: capability arguments are an object");
                return Err(Error::new(error::CONFIG, "runtimeConfig is not an object", why));
            }
            _ => Map::new(),
        };
        let invalid = |why: &str| {
            let fix = format!("{why}. To fix it: let nodectl write the conflist");
            Error::new(error::CONFIG, "the conflist's entry for cni-shim is invalid", fix)
        };
        let settings = serde_json::from_value(Value::Object(config.clone()));
        let settings: Settings = settings.map_err(|cause| invalid(&cause.to_string()))?;
        let root = settings.root.unwrap_or_else(|| PathBuf::from("/"));
        let state_dir = settings.state_dir.unwrap_or_else(|| Paths::under(&root).state_dir().to_owned());
        let usual = Backends::default();
        let backends = Backends {
            flannel: settings.backends.flannel.unwrap_or(usual.flannel),
            calico: settings.backends.calico.unwrap_or(usual.calico),
        };
        // A relative one would lie wherever the runtime happens to stand.
        let places = [&root, &state_dir, &backends.flannel, &backends.calico];
        if let Some(place) = places.into_iter().find(|place| !place.is_absolute()) {
            return Err(invalid(&format!("{place:?} is not an absolute path")));
        }
        Ok(Self {
            invocation,
            name,
            version: version.clone(),
            runtime_config,
            previous: config.get("prevResult").filter(|previous| previous.is_object()).cloned(),
            config,
            paths: Paths::new(root, state_dir),
            backends,
            default: settings.default.unwrap_or(Backend::Flannel),
            limits: settings.limits,
        })
    }

    /// How long a lock may be waited for by a call that has to be further at an instant.
    pub fn lock_wait(&self, by: Instant) -> Duration {
        self.limits.lock().min(by.saturating_duration_since(Instant::now()))
    }

    /// The nodectl run that this ADD belongs to: its own attachment, for which a hold does not count.
    pub fn run(&self) -> Option<&str> {
        record::argument(&self.invocation.args, "NODECTL_RUN")
    }
}

/// The checked environment of a call; `variable` reads one of its variables.
pub fn environment(verb: Verb, variable: impl Fn(&str) -> Result<String, VarError>) -> Result<Invocation, Error> {
    let fix = "let the container runtime set it as the CNI specification has it";
    let invalid = |msg: String, name: &str| Error::new(error::ENVIRONMENT, msg, format!("{name}. To fix it: {fix}"));
    let read = |name: &str| match variable(name) {
        Err(VarError::NotUnicode(_)) => Err(invalid(format!("{name} is not UTF-8"), name)),
        value => Ok(value.unwrap_or_default()),
    };
    let invocation = Invocation {
        container_id: read("CNI_CONTAINERID")?,
        ifname: read("CNI_IFNAME")?,
        netns: read("CNI_NETNS")?,
        args: read("CNI_ARGS")?,
        cni_path: read("CNI_PATH")?,
    };
    let (of_pod, needs_netns) =
        (matches!(verb, Verb::Add | Verb::Del | Verb::Check), matches!(verb, Verb::Add | Verb::Check));
    let missing: Vec<_> = [
        ("CNI_CONTAINERID", of_pod && invocation.container_id.is_empty()),
        ("CNI_NETNS", needs_netns && invocation.netns.is_empty()),
        ("CNI_IFNAME", of_pod && invocation.ifname.is_empty()),
        // A DEL has the recorded paths, and a STATUS does without.
        ("CNI_PATH", matches!(verb, Verb::Add | Verb::Check | Verb::Gc) && invocation.cni_path.is_empty()),
    ]
    .into_iter()
    .filter_map(|(name, missing)| missing.then_some(name))
    .collect();
    if !missing.is_empty() {
        return Err(invalid(format!("required env variables [{}] missing", missing.join(",")), "the environment"));
    }
    let (id, ifname) = (&invocation.container_id, &invocation.ifname);
    if of_pod && !is_name(id) {
        return Err(invalid(format!("invalid characters in containerID \"{id}\""), "CNI_CONTAINERID"));
    }
    let unusable = ifname.len() > 15 || [".", ".."].contains(&ifname.as_str());
    if of_pod && (unusable || ifname.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())) {
        return Err(invalid(format!("invalid interface name \"{ifname}\""), "CNI_IFNAME"));
    }
    Ok(invocation)
}

/// What names a container or a network: libcni's `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$` (pkg/utils).
fn is_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
}

fn check(verb: Verb, config: &Map<String, Value>, name: &str, version: &mut String) -> Result<(), Error> {
    if !is_name(name) {
        let why = mend(&format!("\"name\" is \"{name}\""));
        return Err(Error::new(error::CONFIG, "missing network name, or invalid characters in it", why));
    }
    let asked = config.get("cniVersion").and_then(Value::as_str).filter(|asked| !asked.is_empty()).unwrap_or("0.1.0");
    if !convert::is_supported(asked) {
        let why = mend(&format!("config is \"{asked}\", plugin supports {:?}", convert::SUPPORTED));
        return Err(Error::new(error::VERSION, "incompatible CNI versions", why));
    }
    asked.clone_into(version);
    let (floor, verb) = match verb {
        Verb::Add | Verb::Del => return Ok(()),
        Verb::Check => ("0.4.0", "CHECK"),
        Verb::Gc => ("1.1.0", "GC"),
        Verb::Status => ("1.1.0", "STATUS"),
    };
    if convert::at_least(asked, floor) {
        return Ok(());
    }
    Err(Error::new(
        error::VERSION,
        format!("config version does not allow {verb}"),
        mend(&format!("config is \"{asked}\"")),
    ))
}

/// Why a configuration is refused, and what to do about it.
fn mend(why: &str) -> String {
    format!("{why}. To fix it: mend the conflist that the runtime uses; `nodectl shim status` names it")
}
