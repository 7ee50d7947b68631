//! The stand-in for the `flannel` CNI plugin of flannel-io (v1.2.0 and later), which knows IPv6; that of Debian's packages, older, does not.
//!
//! How the real one behaves, and therefore this one:
//! - ADD reads subnet.env, derives the bridge plugin's configuration from it, writes that to /var/lib/cni/flannel/<container id> (synced), and only then
//!   runs bridge, which runs host-local with a range for each family. A failed ADD leaves the file.
//! - DEL reads nothing but that file. Without it, it succeeds and does nothing; with one that is empty or torn too, and the file stays.
//! - DEL removes the file even where bridge failed, so that the runtime's next try "succeeds" and the addresses leak.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::agent::env;
use crate::agent::family::Family;
use crate::command::{self, Output};

use super::subnet;

/// `nodectl-lab flannel-plugin`, as the runtime calls the plugin.
pub fn main(_args: &[String]) -> Result<ExitCode> {
    let mut stdin = String::new();
    std::io::stdin().read_to_string(&mut stdin)?;
    let conf: Value = serde_json::from_str(&stdin).unwrap_or_default();
    let outcome = match env("CNI_COMMAND").unwrap_or_default().as_str() {
        "ADD" => add(&conf),
        "DEL" => del(&conf),
        "CHECK" => Ok(None),
        "VERSION" => Ok(Some(version())),
        other => Err(anyhow::anyhow!("unknown CNI_COMMAND: {other}")),
    };
    let (output, code) = match outcome {
        Ok(None) => return Ok(ExitCode::SUCCESS),
        Ok(Some(output)) => {
            let code = if output.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
            (output.stdout, code)
        }
        Err(error) => {
            let answer = json!({"cniVersion": conf["cniVersion"], "code": 100, "msg": format!("{error:#}")});
            (answer.to_string(), ExitCode::FAILURE)
        }
    };
    println!("{}", output.trim_end());
    Ok(code)
}

fn version() -> Output {
    let versions = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
    let answer = json!({"cniVersion": "1.1.0", "supportedVersions": versions});
    Output { code: 0, stdout: answer.to_string(), stderr: String::new() }
}

fn add(conf: &Value) -> Result<Option<Output>> {
    let file = conf["subnetFile"].as_str().unwrap_or("/run/flannel/subnet.env");
    let text = fs::read_to_string(file).with_context(|| {
        format!("failed to load flannel 'subnet.env' file: open {file}. Check the flannel pod log for this node")
    })?;
    let delegate = derive(conf, &text)?;
    let path = scratch(conf)?;
    save(&path, &delegate.to_string()).with_context(|| format!("{} could not be written", path.display()))?;
    run(&delegate).map(Some)
}

fn del(conf: &Value) -> Result<Option<Output>> {
    let path = scratch(conf)?;
    let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
    let Ok(delegate) = serde_json::from_str::<Value>(&text) else { return Ok(None) };
    let outcome = run(&delegate);
    // Whatever came of it.
    let _ = fs::remove_file(&path);
    outcome.map(Some)
}

/// The bridge plugin's configuration. Pure.
fn derive(conf: &Value, env_text: &str) -> Result<Value> {
    let value = |key: &str| subnet::value(env_text, key);
    let (Some(mtu), Some(ip_masq)) = (value("FLANNEL_MTU"), value("FLANNEL_IPMASQ")) else {
        bail!("missing FLANNEL_MTU, FLANNEL_IPMASQ");
    };
    let mut delegate = match &conf["delegate"] {
        Value::Null => Map::new(),
        Value::Object(delegate) => delegate.clone(),
        _ => bail!("'delegate' dictionary, if specified, must be a dictionary"),
    };
    for key in ["name", "ipam"] {
        if delegate.contains_key(key) {
            bail!("'delegate' dictionary must not have '{key}' field, it'll be set by flannel");
        }
    }
    delegate.insert("name".to_owned(), conf["name"].clone());
    delegate.entry("type").or_insert_with(|| json!("bridge"));
    delegate.entry("ipMasq").or_insert_with(|| json!(ip_masq != "true"));
    let mtu: u64 = mtu.parse().with_context(|| format!("FLANNEL_MTU={mtu} is no number"))?;
    delegate.entry("mtu").or_insert_with(|| json!(mtu));
    if delegate["type"] == "bridge" {
        delegate.entry("isGateway").or_insert_with(|| json!(true));
    }
    for key in ["cniVersion", "runtimeConfig"] {
        if !conf[key].is_null() {
            delegate.insert(key.to_owned(), conf[key].clone());
        }
    }
    delegate.insert("ipam".to_owned(), ipam(conf, env_text)?);
    Ok(Value::Object(delegate))
}

/// host-local with one set of ranges for each family, and a route to each pod network.
fn ipam(conf: &Value, env_text: &str) -> Result<Value> {
    let mut ipam = conf["ipam"].as_object().cloned().unwrap_or_default();
    ipam.entry("type").or_insert_with(|| json!("host-local"));
    let mut routes = ipam.get("routes").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut ranges = Vec::new();
    for family in Family::BOTH {
        let (network, subnet) = subnet::keys(family);
        if let (Some(network), Some(own)) = (subnet::value(env_text, network), subnet::value(env_text, subnet)) {
            let own: ipnet::IpNet = own.parse().with_context(|| format!("{subnet}={own} is no subnet"))?;
            ranges.push(json!([{"subnet": own.trunc().to_string()}]));
            routes.push(json!({"dst": network}));
        }
    }
    if ranges.is_empty() {
        bail!("missing FLANNEL_NETWORK, FLANNEL_SUBNET");
    }
    ipam.insert("ranges".to_owned(), Value::Array(ranges));
    ipam.insert("routes".to_owned(), Value::Array(routes));
    Ok(Value::Object(ipam))
}

/// The file that DEL will look for.
fn scratch(conf: &Value) -> Result<PathBuf> {
    let folder = conf["dataDir"].as_str().unwrap_or("/var/lib/cni/flannel");
    let container = env("CNI_CONTAINERID").context("required env variables [CNI_CONTAINERID] missing")?;
    Ok(Path::new(folder).join(container))
}

fn save(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Runs the delegate with this call's environment; what it answers is the answer.
fn run(delegate: &Value) -> Result<Output> {
    let kind = delegate["type"].as_str().unwrap_or_default();
    let paths = env("CNI_PATH").unwrap_or_default();
    let found = paths.split(':').map(|folder| Path::new(folder).join(kind)).find(|path| path.is_file());
    let Some(program) = found.filter(|_| !kind.is_empty()) else {
        bail!("failed to find plugin {kind:?} in path [{}]", paths.replace(':', " "));
    };
    let output = command::output(&mut Command::new(program), &delegate.to_string())?;
    if !output.ok() && output.stdout.trim().is_empty() {
        bail!("netplugin failed: {:?}", output.stderr.trim());
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delegate_is_the_one_that_the_real_plugin_derives() {
        let conf = json!({"name": "cbr0", "cniVersion": "0.3.1", "type": "flannel",
            "delegate": {"hairpinMode": true, "isDefaultGateway": true}});
        let single = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n";
        let rest = "FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
        let expected = json!({"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,
            "ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}],"type":"host-local"},
            "isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"});
        assert_eq!(derive(&conf, &format!("{single}{rest}")).unwrap(), expected);
        let both =
            format!("{single}FLANNEL_IPV6_NETWORK=fd00:10:244::/56\nFLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64\n{rest}");
        let ipam = derive(&conf, &both).unwrap()["ipam"].take();
        assert_eq!(ipam["ranges"], json!([[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:10:244:1::/64"}]]));
        assert_eq!(ipam["routes"], json!([{"dst": "10.244.0.0/16"}, {"dst": "fd00:10:244::/56"}]));
        assert!(derive(&conf, rest).is_err());
        assert!(derive(&json!({"delegate": {"ipam": {}}}), &both).is_err());
    }
}
