//! `calico-ipam`, and how the main plugin calls it (as a process of its own, found in CNI_PATH).

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use crate::agent::api::text;
use crate::agent::env;
use crate::agent::family::Family;
use crate::calico::ipam::{Ipam, Request, Use};
use crate::command;

use super::conf::{self, Invocation};
use super::{Failure, result};

/// ADD: the address requested with `IP=`, or the next free one of each family that the configuration asks for; all or none.
pub fn add(call: &Invocation) -> std::result::Result<Value, Failure> {
    let node = call.node()?;
    let api = call.connect()?;
    let _lock = lock(call)?;
    mark_upgraded();
    let request = Request { handle: call.handle(), attributes: attributes(call, &node), intended: Use::Workload };
    let ipam = Ipam::new(api.as_ref(), &node);
    let addresses = match call.args.get("IP").filter(|text| !text.is_empty()) {
        Some(wanted) => {
            let wanted: IpAddr = wanted.parse().with_context(|| format!("the requested IP {wanted:?} is none"))?;
            vec![ipam.assign(wanted, &request)?.addr()]
        }
        None => assign_each(&ipam, &request, &families(&call.conf))?,
    };
    Ok(result::ipam(call.version(), &addresses))
}

/// The families that the configuration asks for, as texts: IPv4 unless it says otherwise, IPv6 only where it says so.
fn families(conf: &Value) -> Vec<Family> {
    let says = |key: &str| conf["ipam"][key].as_str().map(str::to_lowercase);
    let v4 = says("assign_ipv4").is_none_or(|value| value != "false").then_some(Family::V4);
    let v6 = says("assign_ipv6").filter(|value| value == "true").map(|_| Family::V6);
    v4.into_iter().chain(v6).collect()
}

fn assign_each(ipam: &Ipam, request: &Request, families: &[Family]) -> Result<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for family in families {
        match ipam.auto_assign(request, *family) {
            Ok(address) => addresses.push(address.addr()),
            Err(error) => {
                // One family's address alone is not given out.
                if !addresses.is_empty() {
                    ipam.release_by_handle(&request.handle)?;
                }
                return Err(error);
            }
        }
    }
    Ok(addresses)
}

/// DEL: everything of the sandbox's handle, then of the historic handle `<namespace>.<pod>`; nothing there is fine.
pub fn del(call: &Invocation) -> std::result::Result<(), Failure> {
    let node = call.node()?;
    let api = call.connect()?;
    let _lock = lock(call)?;
    let ipam = Ipam::new(api.as_ref(), &node);
    ipam.release_by_handle(&call.handle())?;
    let workload = match call.pod() {
        Some(pod) => format!("{}.{}", pod.namespace, pod.name),
        None => call.container_id.clone(),
    };
    ipam.release_by_handle(&workload)?;
    Ok(())
}

fn attributes(call: &Invocation, node: &str) -> BTreeMap<String, String> {
    let mut attributes = BTreeMap::from([
        ("node".to_owned(), node.to_owned()),
        ("timestamp".to_owned(), jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S %z UTC").to_string()),
    ]);
    if let Some(pod) = call.pod() {
        attributes.insert("pod".to_owned(), pod.name);
        attributes.insert("namespace".to_owned(), pod.namespace);
    }
    attributes
}

/// One calico-ipam at a time on a host.
fn lock(call: &Invocation) -> Result<Flock<File>> {
    let path = call.conf["ipam_lock_file"]
        .as_str()
        .filter(|path| !path.is_empty())
        .unwrap_or("/var/run/calico/ipam.lock")
        .to_owned();
    if let Some(directory) = Path::new(&path).parent() {
        std::fs::create_dir_all(directory).with_context(|| format!("{} could not be created", directory.display()))?;
    }
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("unable to open host-wide IPAM lock {path}"))?;
    match Flock::lock(file, FlockArg::LockExclusive) {
        Ok(lock) => Ok(lock),
        Err((_, error)) => bail!("unable to grab host-wide IPAM lock {path}: {error}"),
    }
}

/// The first call on a host leaves this file; the upgrade that it stands for has nothing to do here.
fn mark_upgraded() {
    let path = Path::new("/var/run/calico/cni/ipam_upgraded");
    if !path.exists() && std::fs::create_dir_all("/var/run/calico/cni").is_ok() {
        // Written only to save a later call some work: a failure costs nothing.
        let _ = std::fs::write(path, "");
    }
}

/// Runs the IPAM plugin's ADD on behalf of the main plugin; answers the addresses.
pub fn delegate_add(call: &Invocation, wanted: Option<IpAddr>) -> Result<Vec<IpAddr>> {
    let mut command = delegate(call, "ADD")?;
    if let Some(wanted) = wanted {
        command.env("CNI_ARGS", format!("{};IP={wanted}", conf::lenient_args()));
    }
    let output = command::output(&mut command, &delegated(call, true)?)?;
    let answer: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
    if !output.ok() {
        bail!("{}", said(&answer, &output.stderr));
    }
    let addresses = result::addresses(&answer);
    if addresses.is_empty() {
        bail!("IPAM plugin returned no IP addresses in result");
    }
    Ok(addresses)
}

/// Runs the IPAM plugin's DEL.
pub fn delegate_del(call: &Invocation) -> Result<()> {
    let output = command::output(&mut delegate(call, "DEL")?, &delegated(call, false)?)?;
    if output.ok() {
        return Ok(());
    }
    bail!("{}", said(&serde_json::from_str(&output.stdout).unwrap_or_default(), &output.stderr))
}

fn said(answer: &Value, stderr: &str) -> String {
    match text(answer, "/msg") {
        "" => format!("netplugin failed: {}", stderr.trim()),
        message => message.to_owned(),
    }
}

/// What the IPAM plugin gets: the configuration as it came, but for host-local the Node's own pod CIDR in the place of "usePodCidr".
/// A DEL frees by the container's id and looks at no range, so that it need not ask.
fn delegated(call: &Invocation, adds: bool) -> Result<String> {
    if call.conf["ipam"]["subnet"] != "usePodCidr" {
        return Ok(call.stdin.clone());
    }
    let mut conf = call.conf.clone();
    conf["ipam"]["subnet"] = match adds {
        false => "0.0.0.0/0".into(),
        true => {
            let name = call.node()?;
            let node = call.connect()?.get(&format!("/api/v1/nodes/{name}"))?;
            match text(&node, "/spec/podCIDR") {
                "" => bail!("no podCidr for node {name}"),
                cidr => cidr.into(),
            }
        }
    };
    Ok(conf.to_string())
}

fn delegate(call: &Invocation, verb: &str) -> Result<Command> {
    let kind = text(&call.conf, "/ipam/type");
    let paths = env("CNI_PATH").unwrap_or_default();
    let found: Option<PathBuf> = paths
        .split(':')
        .map(|directory| Path::new(directory).join(kind))
        .find(|path| !kind.is_empty() && path.is_file());
    let Some(path) = found else { bail!("failed to find plugin {kind:?} in path [{paths}]") };
    let mut command = Command::new(path);
    command.env("CNI_COMMAND", verb).env("CNI_ARGS", conf::lenient_args());
    Ok(command)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ipv6_is_assigned_only_where_the_configuration_says_so() {
        let of = |ipam: Value| families(&json!({"ipam": ipam}));
        assert_eq!(of(json!({"type": "calico-ipam"})), [Family::V4]);
        assert_eq!(of(json!({"assign_ipv4": "true", "assign_ipv6": "true"})), Family::BOTH);
        assert_eq!(of(json!({"assign_ipv4": "false", "assign_ipv6": "true"})), [Family::V6]);
    }
}
