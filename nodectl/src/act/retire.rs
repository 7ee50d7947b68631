//! Taking the shim away: its conflist first, so that the runtime uses the CNI's own; then what it remembers is handed over to
//! libcni's cache, as the CNI's own list would have written it; last the binary and the state.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cni_spec::convert;
use cni_store::record::{Phase, Record};
use serde_json::{Value, json};

use super::{Context, shim};
use crate::fault;
use crate::host::{backup, files};
use crate::observe;
use crate::plan::SHIM_STATE_DIR;
use crate::step::Step;

/// Gives every attachment's cached result the name and the configuration of the CNI's own network. containerd finds the
/// result there when it deletes the pod; CRI-O deletes by the cached configuration and would look for the shim's binary.
pub(super) fn hand_over(cx: &mut Context, conflist: &str) -> Result<Value> {
    let paths = cx.shim();
    shim::await_idle(cx)?;
    let text = files::read_text_optional(&cx.host.path(conflist))?.with_context(|| {
        format!(
            "{conflist} is missing, so no network would serve without the shim. To fix it: let the CNI's installer write \
             it anew"
        )
    })?;
    let list =
        cni_spec::conflist::List::parse(text.as_bytes()).with_context(|| format!("{conflist} cannot be used"))?;
    let living: BTreeSet<String> = cx.cri()?.sandboxes()?.into_iter().map(|s| s.id).collect();
    let (records, torn) = Record::list(&paths)?;
    if let Some(torn) = torn.first() {
        bail!("{} cannot be read. To fix it: run `nodectl shim reap`", torn.display());
    }
    let mut handed = 0;
    for record in &records {
        let is_own = record.del.len() == 1 && record.del.iter().all(|own| own.network == list.name);
        let id = &record.container_id;
        if living.contains(id) && !(is_own && record.phase == Phase::Added) {
            bail!(
                "the sandbox {id} cannot do without the shim: it was attached while the shim was being retired. To fix it: see \
                 `nodectl shim status`, then run this again"
            );
        }
        for results in paths.results() {
            handed += usize::from(one(cx, &results, record, &list, &text, living.contains(id))?);
        }
    }
    Ok(json!({ "handed_over": handed }))
}

/// Rewrites one attachment's cached result; false where there is none.
fn one(
    cx: &Context,
    results: &Path,
    record: &Record,
    list: &cni_spec::conflist::List,
    text: &str,
    lives: bool,
) -> Result<bool> {
    let ending = format!("-{}-{}", record.container_id, record.ifname);
    let own = results.join(format!("{}{ending}", list.name));
    let mut found = false;
    for name in files::list(results)?.iter().filter(|name| name.ends_with(&ending)) {
        let path = results.join(name);
        let bytes = files::read_optional(&path)?.unwrap_or_default();
        let mut cache: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if !observe::is_the_shims(&cache) {
            continue;
        }
        keep(cx, &path)?;
        fault::point("shim.cache");
        if lives {
            cache["config"] = json!(STANDARD.encode(text));
            cache["networkName"] = json!(list.name);
            let result =
                record.result.as_ref().and_then(|result| convert::result(result.clone(), &list.cni_version).ok());
            cache["result"] = result.unwrap_or_else(|| cache["result"].take());
            let bytes = serde_json::to_vec(&cache).context("could not encode a cached result")?;
            files::write_atomic(&own, &bytes, 0o600)?;
        }
        if path != own || !lives {
            files::remove(&path)?;
        }
        found = true;
    }
    Ok(found)
}

/// Copies a cached result to the run's backups. The first copy counts: a later one may be of what we wrote.
fn keep(cx: &Context, path: &Path) -> Result<()> {
    let copy = backups(cx).join(path.strip_prefix(cx.host.root()).unwrap_or(path));
    if !files::exists(&copy) {
        files::create_directory(copy.parent().unwrap_or(Path::new("/")), 0o700)?;
        files::copy_atomic(path, &copy, None)?;
    }
    Ok(())
}

fn backups(cx: &Context) -> PathBuf {
    cx.run.backup.join("results")
}

/// Puts the cached results back as they were, of the attachments that still have one: a pod that was deleted meanwhile took
/// its own with it.
pub(super) fn undo_hand_over(cx: &mut Context, conflist: &str) -> Result<()> {
    let text = files::read_text_optional(&cx.host.path(conflist))?.unwrap_or_default();
    let native = cni_spec::conflist::List::parse(text.as_bytes()).map(|list| list.name).unwrap_or_default();
    let (records, _) = Record::list(&cx.shim())?;
    for record in &records {
        let ending = format!("-{}-{}", record.container_id, record.ifname);
        for results in cx.shim().results() {
            let copies = backups(cx).join(results.strip_prefix(cx.host.root()).unwrap_or(&results));
            let own = results.join(format!("{native}{ending}"));
            for name in files::list(&copies)?.iter().filter(|name| name.ends_with(&ending)) {
                let target = results.join(name);
                if files::exists(&own) {
                    fault::point("shim.cache");
                    files::copy_atomic(&copies.join(name), &target, None)?;
                    if target != own {
                        files::remove(&own)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Moves the shim's folder aside, with what was attached in the moment before its conflist went.
pub(super) fn remove_state(cx: &mut Context) -> Result<Value> {
    let plan = cx.plan;
    let conflist = plan.steps.iter().find_map(|step| match step {
        Step::HandOverAttachments { conflist, .. } => Some(conflist.as_str()),
        _ => None,
    });
    let folder = cx.host.path(SHIM_STATE_DIR);
    let late = match conflist {
        Some(conflist) if files::exists(&folder) => hand_over(cx, conflist)?,
        _ => Value::Null,
    };
    backup::move_aside(&folder, &aside(cx))?;
    Ok(late)
}

pub(super) fn undo_remove_state(cx: &mut Context) -> Result<()> {
    backup::put_back(&aside(cx), &cx.host.path(SHIM_STATE_DIR))
}

fn aside(cx: &Context) -> PathBuf {
    cx.run.backup.join("cni-shim")
}
