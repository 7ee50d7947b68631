//! Calling the shim as a runtime would: for the attachment that we probe from, and for DELs that no runtime asks for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use cni_shim::record::Record;
use serde_json::{Value, json};

use super::Context;
use crate::facts::Sandbox;
use crate::host::files;
use crate::host::run::Run;
use crate::plan::{SHIM_CONFLIST, SHIM_STATE_DIR};

/// The shim's own limit for an ADD is 100 s.
const LIMIT: Duration = Duration::from_secs(115);

/// One call of the shim.
pub(super) struct Call<'a> {
    /// `ADD` or `DEL`.
    pub verb: &'a str,
    /// CNI_CONTAINERID.
    pub container: &'a str,
    /// CNI_IFNAME.
    pub ifname: &'a str,
    /// CNI_NETNS.
    pub netns: &'a str,
    /// CNI_ARGS.
    pub args: &'a str,
}

/// Runs the shim; its answer, or its error as a sentence.
pub(super) fn call(cx: &Context, call: &Call) -> Result<Value> {
    let (bin_dir, config) = shim_config(cx)?;
    let output = Run::new(bin_dir.join("cni-shim"))
        .env("CNI_COMMAND", call.verb)
        .env("CNI_CONTAINERID", call.container)
        .env("CNI_IFNAME", call.ifname)
        .env("CNI_NETNS", call.netns)
        .env("CNI_ARGS", call.args)
        .env("CNI_PATH", &bin_dir)
        .stdin(serde_json::to_vec(&config).context("could not encode the shim's configuration")?)
        .timeout(LIMIT)
        .output()?;
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    if output.status.success() {
        return Ok(answer);
    }
    let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    bail!("cni-shim {} failed: {} {} {}", call.verb, text("msg"), text("details"), stderr.trim())
}

/// The CNI binary directory, and the shim's plugin configuration as libcni derives it from its conflist.
fn shim_config(cx: &Context) -> Result<(PathBuf, Value)> {
    let dirs = crate::observe::cni_directories(cx.host);
    let conflist = cx.host.path(Path::new(&dirs.conf_dir).join(SHIM_CONFLIST));
    let text = files::read_text_optional(&conflist)?
        .with_context(|| format!("{} is missing, so the shim cannot be called", conflist.display()))?;
    let list: Value = serde_json::from_str(&text).with_context(|| format!("{} does not parse", conflist.display()))?;
    let mut config = list["plugins"][0].clone();
    config["name"] = list["name"].clone();
    config["cniVersion"] = list["cniVersion"].clone();
    Ok((cx.host.path(&dirs.bin_dir), config))
}

/// Runs the DEL of a record whose sandbox the runtime has forgotten.
pub(super) fn delete(cx: &Context, record: &Record) -> Result<()> {
    let netns = if files::exists(&cx.host.path(&record.netns)) { record.netns.as_str() } else { "" };
    let args = record.del.first().map(|l| l.args.clone()).unwrap_or_default();
    call(cx, &Call { verb: "DEL", container: &record.container_id, ifname: &record.ifname, netns, args: &args })
        .map(drop)
}

/// Runs the DELs that the shim keeps, because a delegate had failed.
pub(super) fn drain_pending(cx: &Context) -> Result<()> {
    if !files::exists(&cx.host.path(SHIM_STATE_DIR)) {
        return Ok(());
    }
    let paths = cx.shim();
    for pending in cni_shim::pending::list(&paths).map_err(anyhow::Error::msg)? {
        crate::fault::point("shim.pending");
        cni_shim::pending::run(&paths, &pending)
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("could not finish the kept DEL of {}", pending.container_id))?;
    }
    Ok(())
}

/// What CRI knows of a sandbox, as the shim's search for evidence takes it.
pub(super) fn known(cx: &Context, sandbox: &Sandbox, ifname: &str) -> cni_shim::evidence::Known {
    let args = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        sandbox.namespace, sandbox.name, sandbox.id, sandbox.uid
    );
    cni_shim::evidence::Known {
        container_id: sandbox.id.clone(),
        ifname: ifname.to_owned(),
        netns: sandbox.netns.clone().unwrap_or_default(),
        args,
        cni_path: crate::observe::cni_directories(cx.host).bin_dir,
    }
}

/// Kept small on purpose: what a probe found goes into the journal.
pub(super) fn address_of(result: &Value) -> Option<std::net::IpAddr> {
    result["ips"][0]["address"].as_str()?.split('/').next()?.parse().ok()
}

/// The outcome of an attachment for the journal.
pub(super) fn summary(result: &Value) -> Value {
    json!({ "address": address_of(result) })
}
