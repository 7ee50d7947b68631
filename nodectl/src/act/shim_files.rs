//! The shim's two files: the binary first, then the conflist that makes the runtime use it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::Context;
use crate::host::files;
use crate::step::Before;

/// After this long without a reload, the runtime is nudged (containerd ignores some kinds of change).
const PATIENCE: Duration = Duration::from_secs(2);
/// After this long the step fails.
const LIMIT: Duration = Duration::from_secs(30);

pub(super) fn binary_before(cx: &mut Context, to: &str) -> Result<Before> {
    let path = cx.host.path(to);
    let Some(mode) = files::mode(&path)? else {
        return Ok(Before::File { text: None, backup: None, mode: 0 });
    };
    let copy = cx.run.backup.join("cni-shim.before");
    if !files::exists(&copy) {
        files::create_directory(&cx.run.backup, 0o700)?;
        files::copy_atomic(&path, &copy, None)?;
    }
    Ok(Before::File { text: None, backup: Some(copy.display().to_string()), mode })
}

pub(super) fn conflist_before(cx: &mut Context, path: &str) -> Result<Before> {
    let path = cx.host.path(path);
    let (text, mode) = (files::read_text_optional(&path)?, files::mode(&path)?.unwrap_or(0));
    Ok(Before::File { text, backup: None, mode })
}

pub(super) fn install_binary(cx: &mut Context, from: &str, to: &str) -> Result<Value> {
    // Renamed into place: a shim that runs at this moment keeps its file (no "Text file busy"), and none sees half of it.
    files::copy_atomic(&cx.host.path(from), &cx.host.path(to), Some(0o755))?;
    Ok(Value::Null)
}

pub(super) fn install_conflist(cx: &mut Context, path: &str, content: &Value) -> Result<Value> {
    let mut text = serde_json::to_string_pretty(content).context("could not encode the shim's conflist")?;
    text.push('\n');
    files::write_atomic(&cx.host.path(path), text.as_bytes(), 0o644)?;
    let nudged = await_loaded(cx, path, true)?;
    Ok(json!({ "nudged": nudged }))
}

/// Takes the shim's conflist away and waits until the runtime uses what sorts first then.
pub(super) fn remove_conflist(cx: &mut Context, path: &str) -> Result<Value> {
    files::remove(&cx.host.path(path))?;
    let nudged = await_loaded(cx, path, false)?;
    Ok(json!({ "nudged": nudged }))
}

/// Puts the shim's conflist back and waits until the runtime uses it.
pub(super) fn undo_remove_conflist(cx: &mut Context, path: &str, before: &Before) -> Result<()> {
    undo(cx, path, before)?;
    await_loaded(cx, path, true).map(drop)
}

pub(super) fn remove_binary(cx: &mut Context, path: &str) -> Result<Value> {
    files::remove(&cx.host.path(path))?;
    Ok(Value::Null)
}

/// Puts the file back as it was, or takes it away.
pub(super) fn undo(cx: &mut Context, path: &str, before: &Before) -> Result<()> {
    let Before::File { text, backup, mode } = before else { return Ok(()) };
    let here = cx.host.path(path);
    match (text, backup) {
        (Some(text), _) => files::write_atomic(&here, text.as_bytes(), *mode),
        (None, Some(copy)) => files::copy_atomic(Path::new(copy), &here, Some(*mode)),
        (None, None) => {
            let removed = files::remove(&here)?;
            // The binary goes after its conflist: by then the runtime must not call it any more.
            if removed && path.ends_with(".conflist") {
                let _ = await_loaded(cx, path, false)?;
            }
            Ok(())
        }
    }
}

/// Waits until the runtime has (or no longer has) the shim loaded; true where it had to be nudged.
fn await_loaded(cx: &mut Context, path: &str, wanted: bool) -> Result<bool> {
    let loaded = |cx: &mut Context| -> Result<Option<()>> {
        let status = cx.cri()?.status()?;
        Ok((status.plugins.is_empty() || status.plugins.iter().any(|p| p == "cni-shim") == wanted).then_some(()))
    };
    let stop = cx.stop;
    // A runtime that does not answer yet is asked below, with more patience.
    if stop.wait_for(PATIENCE, || loaded(cx).or(Ok(None)))?.is_some() {
        return Ok(false);
    }
    let folder = cx.host.path(path).parent().map(Path::to_owned).unwrap_or_default();
    let scratch = folder.join(".nodectl-nudge");
    files::write_atomic(&scratch, b"\n", 0o600)?;
    files::remove(&scratch)?;
    if stop.keep_asking(LIMIT, || loaded(cx))?.is_none() {
        bail!(
            "the runtime did not take up {path} within {} s. To fix it: see its log; `systemctl restart containerd` makes it \
             read its configuration again (pods survive)",
            LIMIT.as_secs()
        );
    }
    Ok(true)
}
