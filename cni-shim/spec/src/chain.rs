//! A list's plugins, called as libcni calls them (libcni/api.go).

use crate::conflist::declares;
use crate::error::{self, Error};
use crate::{convert, exec};
use serde::{Deserialize, Serialize, Serializer as _};
use serde_json::{Map, Value};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

/// What the runtime said about the attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Invocation {
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_IFNAME.
    pub ifname: String,
    /// CNI_NETNS.
    pub netns: String,
    /// CNI_ARGS.
    pub args: String,
    /// CNI_PATH.
    pub cni_path: String,
}

/// One value out of CNI_ARGS.
pub fn argument<'a>(args: &'a str, key: &str) -> Option<&'a str> {
    args.split(';').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == key).map(|(_, value)| value)
}

/// One plugin of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PluginCall {
    /// The plugin's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The binary that ADD ran. DEL runs the same, or the one that CNI_PATH offers if this is gone.
    pub path: PathBuf,
    /// The plugin's entry in its conflist, as it stands there: name, version, prevResult and runtimeConfig come per call.
    pub config: Map<String, Value>,
}

/// A list of plugins with all that is needed to call them as libcni would.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DelList {
    /// The network's name: a key of what the plugins made (host-local's directory, portmap's chains, Calico's handle).
    pub network: String,
    /// The list's CNI version.
    pub cni_version: String,
    /// The plugins in ADD's order; DEL goes backwards.
    pub plugins: Vec<PluginCall>,
    /// The capability arguments of ADD: without portMappings, portmap's DEL does nothing.
    #[serde(default)]
    pub runtime_config: Map<String, Value>,
    /// CNI_ARGS of ADD.
    #[serde(default)]
    pub args: String,
    /// The list says disableCheck.
    #[serde(default)]
    pub disable_check: bool,
}

/// A delegate that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its type.
    pub plugin: String,
    /// The network whose list it is in.
    pub network: String,
    /// Its error.
    pub error: Error,
}

/// One error for all failures: a single one unchanged, several joined under the first one's code.
pub fn join(failures: &[Failure]) -> Error {
    match failures {
        [] => Error::new(error::INTERNAL, "nothing failed", ""),
        [only] => only.error.clone(),
        [first, ..] => {
            let one = |f: &Failure| format!("plugin \"{}\" of network \"{}\": {}", f.plugin, f.network, f.error);
            let all: Vec<_> = failures.iter().map(one).collect();
            Error::new(first.error.code, format!("{} plugins failed", all.len()), all.join("; "))
        }
    }
}

/// What a plugin gets on standard input: its entry, the list's name and version, and `more`; and of the list's capability
/// arguments those that the plugin declares (libcni/api.go, buildOneConfig and injectRuntimeConfig).
fn input(list: &DelList, call: &PluginCall, more: &[(&str, &Value)]) -> Vec<u8> {
    let (name, version) = (Value::from(list.network.as_str()), Value::from(list.cni_version.as_str()));
    let mut given = list.runtime_config.clone();
    given.retain(|key, _| declares(&call.config, key));
    let (is_given, given) = (!given.is_empty(), Value::Object(given));
    let mut ours = vec![("name", &name), ("cniVersion", &version)];
    ours.extend(more);
    ours.extend(is_given.then_some(("runtimeConfig", &given)));
    let config = call.config.iter().map(|(key, value)| (key.as_str(), value));
    let theirs = config.filter(|(key, _)| ours.iter().all(|(our, _)| our != key));
    let mut text = Vec::new();
    // What is made of JSON can be written as JSON, and memory takes all of it.
    let _ = serde_json::Serializer::new(&mut text).collect_map(theirs.chain(ours.iter().copied()));
    text
}

/// Calls one plugin; gives what it wrote to standard output.
pub fn call(
    verb: &str,
    list: &DelList,
    call: &PluginCall,
    invocation: &Invocation,
    more: &[(&str, &Value)],
    deadline: Instant,
) -> Result<Vec<u8>, Error> {
    let environment = [
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", &invocation.container_id),
        ("CNI_NETNS", &invocation.netns),
        ("CNI_ARGS", &invocation.args),
        ("CNI_IFNAME", &invocation.ifname),
        ("CNI_PATH", &invocation.cni_path),
    ];
    let outcome = exec::run(&call.path, &environment, &input(list, call, more), deadline)?;
    let _ = std::io::stderr().write_all(&outcome.stderr);
    outcome.result(&format!("plugin \"{}\" of network \"{}\"", call.kind, list.network))
}

/// What a plugin gets of the result so far.
pub fn previous(result: Option<&Value>) -> Option<(&str, &Value)> {
    result.map(|result| ("prevResult", result))
}

/// ADD: forward, each plugin with the result of the one before, up to the first error. Gives the last result.
pub fn add(list: &DelList, invocation: &Invocation, first: Option<&Value>, deadline: Instant) -> Result<Value, Error> {
    let mut result = first.cloned();
    for plugin in &list.plugins {
        let output = call("ADD", list, plugin, invocation, previous(result.as_ref()).as_slice(), deadline)?;
        result = Some(parse_result(&output, list, plugin)?);
    }
    result.ok_or_else(|| {
        Error::new(
            error::CONFIG,
            format!("network \"{}\" has no plugins", list.network),
            "To fix it: mend its conflist",
        )
    })
}

/// What a plugin of the list wrote to standard output, as a result; code 6 if it is none.
pub fn parse_result(output: &[u8], list: &DelList, plugin: &PluginCall) -> Result<Value, Error> {
    let unusable = |why: String| {
        let start = exec::beginning(output, 200);
        let fix = "install the plugin again, in a version that speaks the conflist's cniVersion";
        let details = format!("{why}; its output begins {start:?}. To fix it: {fix}");
        Error::new(error::DECODE, format!("plugin \"{}\" succeeded without a usable result", plugin.kind), details)
    };
    // libcni takes null for an empty result, and a result without a version for one of the list's (fixupResultVersion).
    let mut result = match serde_json::from_slice(output).map_err(|cause| unusable(cause.to_string()))? {
        Value::Object(result) => result,
        Value::Null => Map::new(),
        _ => return Err(unusable("it is not an object".to_owned())),
    };
    let version = result.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
    if version.is_empty() {
        result.insert("cniVersion".to_owned(), list.cni_version.as_str().into());
    } else if !convert::is_supported(version) {
        return Err(unusable(format!("its CNI version \"{version}\" is unknown")));
    }
    Ok(Value::Object(result))
}

/// The result that DEL and CHECK hand to each plugin: in the list's version, none for a DEL below 0.4.0.
pub fn cached(list: &DelList, result: Option<&Value>) -> Option<Value> {
    let wanted = result.filter(|_| convert::at_least(&list.cni_version, "0.4.0"));
    wanted.and_then(|result| convert::result(result.clone(), &list.cni_version).ok())
}

/// CHECK, STATUS or GC over a list: forward. GC goes on after an error, the others stop.
pub fn each(
    verb: &str,
    list: &DelList,
    invocation: &Invocation,
    more: &[(&str, &Value)],
    deadline: Instant,
) -> Vec<Failure> {
    let mut failures = Vec::new();
    for plugin in &list.plugins {
        if let Err(error) = call(verb, list, plugin, invocation, more, deadline) {
            failures.push(Failure { plugin: plugin.kind.clone(), network: list.network.clone(), error });
            if verb != "GC" {
                break;
            }
        }
    }
    failures
}

/// Writes failures that nobody else will hear of.
pub fn log(what: &str, failures: &[Failure]) {
    for failure in failures {
        error::log(format!(
            "{what}: plugin \"{}\" of network \"{}\": {}",
            failure.plugin, failure.network, failure.error
        ));
    }
}
