//! Calling the shim as a runtime would: for the attachment that we probe from, and for DELs that no runtime asks for.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use cni_store::evidence::{self, Sought};
use cni_store::record::Record;
use serde_json::{Value, json};

use super::Context;
use crate::facts::Sandbox;
use crate::fault;
use crate::host::files;
use crate::host::run::Run;
use crate::plan::{SHIM_CONFLIST, SHIM_STATE_DIR};
use crate::reap;
use crate::remedy::Told;
use crate::step::words::count;

/// The shim's own limit for an ADD is 100 s.
const LIMIT: Duration = Duration::from_secs(115);
/// How long other calls may be at work on what is to be deleted: the shim's own limit for a DEL. kubelet asks for the same DELs.
const OTHERS: Duration = Duration::from_secs(45);

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
    let (bin_dir, config) = (cx.bin_dir(), shim_config(cx)?);
    fault::point("shim.call");
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
    fault::point("shim.called");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    if output.status.success() {
        return Ok(answer);
    }
    let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    bail!("cni-shim {} failed: {} {} {}", call.verb, text("msg"), text("details"), stderr.trim())
}

/// The shim's plugin configuration as libcni derives it from its conflist.
fn shim_config(cx: &Context) -> Result<Value> {
    let conflist = cx.host.path(Path::new(&cx.plan.conf_dir).join(SHIM_CONFLIST));
    let text = files::read_text_optional(&conflist)?
        .with_context(|| format!("{} is missing, so the shim cannot be called", conflist.display()))?;
    let list: Value = serde_json::from_str(&text).with_context(|| format!("{} does not parse", conflist.display()))?;
    let mut config = list["plugins"][0].clone();
    config["name"] = list["name"].clone();
    config["cniVersion"] = list["cniVersion"].clone();
    Ok(config)
}

/// Runs the DEL of a record whose sandbox the runtime has forgotten.
pub(super) fn delete(cx: &Context, record: &Record) -> Result<()> {
    let netns = if files::exists(&cx.host.path(&record.netns)) { record.netns.as_str() } else { "" };
    let args = record.del.first().map(|l| l.args.clone()).unwrap_or_default();
    call(cx, &Call { verb: "DEL", container: &record.container_id, ifname: &record.ifname, netns, args: &args })
        .map(drop)
}

/// Runs the DELs that the shim keeps, because a delegate had failed; all of them, whatever becomes of one.
pub(super) fn drain_pending(cx: &Context) -> Result<()> {
    if !files::exists(&cx.host.path(SHIM_STATE_DIR)) {
        return Ok(());
    }
    let cni_path = cx.bin_dir().display().to_string();
    let kept = reap::run_kept(&cx.shim(), &cx.backends(), &cni_path, OTHERS, LIMIT)?.left;
    let left: Vec<(String, Told)> = kept.into_iter().map(|left| (left.container, Told::of(&left.why))).collect();
    if left.is_empty() {
        return Ok(());
    }
    let causes: Vec<String> =
        left.iter().map(|(container, why)| format!("that of {container}: {}", why.what)).collect();
    let told = Told::of(&format!("{} failed again: {}", count(left.len(), "kept DEL"), causes.join("; ")));
    let told = left.iter().flat_map(|(_, why)| &why.remedies).fold(told, |told, remedy| told.mended_by(remedy));
    bail!("{}", told.mended_by("see `nodectl shim status`"))
}

/// Records a sandbox that is older than the shim; false where nothing tells who made it.
pub(super) fn import(cx: &Context, sandbox: &Sandbox, ifname: &str) -> Result<bool> {
    let args = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        sandbox.namespace, sandbox.name, sandbox.id, sandbox.uid
    );
    let cni_path = cx.bin_dir().display().to_string();
    let sought = Sought { container_id: &sandbox.id, ifname, args: &args, cni_path: &cni_path, torn: false };
    // No cached result of such a sandbox is the shim's, though the network's name be the same.
    Ok(evidence::adopt(&cx.shim(), &cx.conflists(), &sought, sandbox.netns.as_deref(), Duration::from_secs(5))?)
}

/// Kept small on purpose: what a probe found goes into the journal.
pub(super) fn address_of(result: &Value) -> Option<std::net::IpAddr> {
    result["ips"][0]["address"].as_str()?.split('/').next()?.parse().ok()
}

/// The outcome of an attachment for the journal.
pub(super) fn summary(result: &Value) -> Value {
    json!({ "address": address_of(result) })
}
