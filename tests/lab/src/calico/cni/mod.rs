//! Stand-ins for the `calico` and `calico-ipam` CNI plugins, on the Kubernetes datastore.
//!
//! How the real ones behave, and therefore these:
//! - ADD wants /var/lib/calico/nodename and a ready ClusterInformation before anything else, and an existing Pod; it needs the API server at every turn.
//! - A link that bears the target name is deleted, whosever it is. A /32 route of the pod's address over another interface makes ADD fail.
//! - DEL needs the nodename file, a live token and a ready ClusterInformation too: without them the sandbox cannot be torn down. It blanks the pod's
//!   annotations unless they name another sandbox, deletes the interface in the namespace whatever made it, and tolerates a namespace that is gone.
//! - CHECK, from version 0.4.0 on, says OK and looks at nothing. Not a chained plugin: no prevResult is read. Versions above 1.0.0 are refused.
//! - Without Pod arguments the orchestrator is "cni"; in this datastore an endpoint is a Pod, so that such an ADD is refused ("unable to determine Pod name").
//!   LAB_CALICO_WITHOUT_POD=1 lets it through, with `cali` and the container id's first eleven characters as interface.
//! - Arguments that it does not know are ignored by `calico`, whether the runtime says so or not; calico-ipam wants IgnoreUnknown=1.
//! - With host-local in the place of calico-ipam (Canal) the subnet "usePodCidr" is the Node's pod CIDR; everything else is as usual.
//! - calico-ipam finds addresses by handle, `<network>.<container id>`; a requested address that is taken is an error even for its holder.

pub mod add;
pub mod conf;
pub mod dataplane;
pub mod del;
pub mod ipam_plugin;
pub mod result;

use std::io::Read;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};

use crate::agent::env;
use conf::{Invocation, SUPPORTED};

/// An error as CNI reports it.
#[derive(Debug)]
pub struct Failure {
    code: u32,
    message: String,
}

impl Failure {
    /// A failure with one of CNI's codes.
    pub fn new(code: u32, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into() }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    /// What the plugins do not classify is code 999 in libcni's skeleton; Calico returns plain errors everywhere.
    fn from(error: E) -> Failure {
        Failure { code: 999, message: format!("{:#}", error.into()) }
    }
}

/// What a command answers on standard output, if anything.
type Reply = std::result::Result<Option<Value>, Failure>;

/// The `calico` plugin.
pub fn calico(_args: &[String]) -> Result<ExitCode> {
    plugin(&conf::lenient_args(), |command, call| match command {
        "ADD" => add::add(call).map(Some),
        "DEL" => del::del(call).map(|()| None),
        // A dummy, as upstream: libcni ignores what a successful CHECK prints.
        "CHECK" => {
            println!("OK");
            Ok(None)
        }
        other => Err(Failure::new(4, format!("unknown CNI_COMMAND: {other}"))),
    })
}

/// The `calico-ipam` plugin.
pub fn calico_ipam(_args: &[String]) -> Result<ExitCode> {
    plugin(&env("CNI_ARGS").unwrap_or_default(), |command, call| match command {
        "ADD" => ipam_plugin::add(call).map(Some),
        "DEL" => ipam_plugin::del(call).map(|()| None),
        "CHECK" => Ok(None),
        other => Err(Failure::new(4, format!("unknown CNI_COMMAND: {other}"))),
    })
}

/// What libcni's skeleton does around a plugin: version, environment, configuration, output.
fn plugin(args: &str, run: impl Fn(&str, &Invocation) -> Reply) -> Result<ExitCode> {
    let command = std::env::var("CNI_COMMAND").unwrap_or_default();
    let mut stdin = String::new();
    std::io::stdin().read_to_string(&mut stdin)?;
    let version =
        serde_json::from_str::<Value>(&stdin).ok().and_then(|conf| conf["cniVersion"].as_str().map(str::to_owned));
    let reply = if command == "VERSION" {
        Ok(Some(json!({"cniVersion": "1.0.0", "supportedVersions": SUPPORTED})))
    } else {
        Invocation::read(&command, &stdin, args).and_then(|call| match (command.as_str(), call.version()) {
            ("CHECK", "0.1.0" | "0.2.0" | "0.3.0" | "0.3.1") => {
                Err(Failure::new(1, "config version does not allow CHECK"))
            }
            _ => run(&command, &call),
        })
    };
    match reply {
        Ok(answer) => {
            if let Some(answer) = answer {
                println!("{answer}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => {
            let version = version.unwrap_or_else(|| "0.2.0".to_owned());
            println!("{}", json!({"cniVersion": version, "code": failure.code, "msg": failure.message}));
            Ok(ExitCode::FAILURE)
        }
    }
}
