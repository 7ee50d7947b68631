//! What the runtime asks of a plugin: environment and standard input, checked as libcni's skel checks them (pkg/skel/skel.go).

use crate::chain::Invocation;
use crate::convert;
use crate::error::{self, Error};
use serde_json::{Map, Value, json};
use std::env::VarError;
use std::io::Read as _;

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

/// A checked request.
#[derive(Debug)]
pub struct Input {
    /// The environment.
    pub invocation: Invocation,
    /// The network's name as the runtime knows it.
    pub name: String,
    /// The CNI version in which to answer.
    pub version: String,
    /// The capability arguments.
    pub runtime_config: Map<String, Value>,
    /// The result of a plugin chained in front of this one.
    pub previous: Option<Value>,
    /// All of standard input.
    pub config: Map<String, Value>,
}

impl Input {
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
        Ok(Self {
            invocation,
            name,
            version: version.clone(),
            runtime_config,
            previous: config.get("prevResult").filter(|previous| previous.is_object()).cloned(),
            config,
        })
    }
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
