//! Removing what a CNI left, by ownership, with a pre-image of each object.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use cni_store::pending::Pending;
use serde_json::{Value, json};

use super::{Context, attachment};
use crate::cni::Cni;
use crate::host::{backup, iptables, netlink};
use crate::journal::Debt;
use crate::ownership;
use crate::plan::shim_backend;
use crate::remove::{self, Aside};
use crate::rules::{OwnedRules, put_back};
use crate::step::{Before, CleanScope, RemovedImage};

pub(super) fn before(cx: &mut Context, cni: Cni, scope: &CleanScope) -> Result<Before> {
    let facts = crate::observe::node(cx.host);
    if !facts.unseen().is_empty() {
        bail!(
            "what {cni} left cannot be told while parts of the node cannot be looked at: {}",
            facts.unseen().join("; ")
        );
    }
    Ok(Before::Removed(Box::new(ownership::owned(&facts, cni, scope))))
}

pub(super) fn apply(cx: &mut Context, before: &Before) -> Result<Value> {
    let Before::Removed(image) = before else { return Ok(Value::Null) };
    remove(cx, image)?;
    Ok(json!({
        "links": image.links.len(), "routes": image.routes.len(), "sets": image.sets.len(),
        "rules": image.rules.iter().map(rule_count).sum::<usize>(), "files": image.files.len(),
    }))
}

fn rule_count(rules: &OwnedRules) -> usize {
    rules.owned.tables.iter().map(|t| t.inside.len() + t.hooks.len()).sum()
}

/// Removes what an agent whose start is undone has left; `keep` names devices that are yet to be handed back.
pub(super) fn remove_all(cx: &mut Context, cni: Cni, scope: &CleanScope, keep: &[&str]) -> Result<()> {
    let mut image = made_since(cx, cni, scope);
    image.links.retain(|l| !keep.contains(&l.name.as_str()));
    if are_dels_kept(cx, cni)? || cx.journal.log()?.debts().iter().any(Debt::is_leftover) {
        // They need the plugin and its credentials; its conflist must go, or a runtime would take it.
        let conflist = Path::new(&scope.conf_dir).join(&scope.conflist);
        image.files.retain(|file| Path::new(file) == conflist);
    }
    remove(cx, &image)
}

/// Whether DELs of this CNI are kept still; then they are owed. With a server that answers they are run first.
fn are_dels_kept(cx: &mut Context, cni: Cni) -> Result<bool> {
    if !cx.api.is_dead()
        && let Err(error) = attachment::drain_pending(cx)
    {
        tracing::warn!("DELs are kept still: {error:#}");
    }
    let is_of = |pending: &Pending| pending.record.as_ref().is_none_or(|record| record.backend == shim_backend(cni));
    let kept = Pending::list(&cx.shim())?.0.iter().any(is_of);
    if kept {
        cx.owe(Debt::PendingDels)?;
    }
    Ok(kept)
}

/// Without the API server DELs are kept that were asked for on the way back; they are owed, whichever CNI stays.
pub fn owe_kept_dels(cx: &mut Context) -> Result<()> {
    let kept = cx.api.is_dead() && !Pending::list(&cx.shim())?.0.is_empty();
    if kept { cx.owe(Debt::PendingDels) } else { Ok(()) }
}

/// Takes the files away that kept DELs needed, once these have run.
pub(super) fn remove_files(cx: &Context, cni: Cni, scope: &CleanScope) -> Result<()> {
    let files = made_since(cx, cni, scope).files;
    remove(cx, &RemovedImage { files, ..RemovedImage::default() })
}

/// What the CNI has on this node since the run began.
fn made_since(cx: &Context, cni: Cni, scope: &CleanScope) -> RemovedImage {
    let mut image = ownership::owned(&crate::observe::node(cx.host), cni, scope);
    image.files.retain(|file| !super::of_before(cx.plan).any(|kept| kept == file));
    image
}

fn remove(cx: &Context, image: &RemovedImage) -> Result<()> {
    remove::all(cx.host, image, &aside(cx))
}

/// Files wait in the run's backup folder.
fn aside(cx: &Context) -> Aside {
    Aside::Into(cx.run.backup.join("files"))
}

/// Puts it all back, in the opposite order.
pub(super) fn undo(cx: &mut Context, before: &Before) -> Result<()> {
    let Before::Removed(image) = before else { return Ok(()) };
    let aside = aside(cx);
    for file in image.files.iter().rev() {
        if let Some(kept) = aside.path(file) {
            backup::put_back(&kept, &cx.host.path(file))?;
        }
    }
    let network = netlink::observe()?;
    for link in image.links.iter().filter(|l| network.link(&l.name).is_none()) {
        // An agent that came meanwhile made its own device with this VNI and port; the kernel allows only one (EEXIST).
        if let Some(taken) = link.vxlan.as_ref().and_then(|v| network.overlay(v.vni, v.port, v.is_ipv6())) {
            netlink::delete_link(&taken.name)?;
        }
        netlink::add_link(link).with_context(|| format!("could not make {} again", link.name))?;
    }
    // A reboot takes devices, and with them what lay on them; the agent that comes makes its own anew.
    let network = netlink::observe()?;
    let is_there = |dev: &str| network.link(dev).is_some();
    image.addresses.iter().filter(|address| is_there(&address.link)).try_for_each(netlink::add_address)?;
    let routes: Vec<_> =
        image.routes.iter().filter(|route| route.dev.as_deref().is_none_or(is_there)).cloned().collect();
    netlink::change_routes(&routes, &[])?;
    if !image.sets.is_empty() {
        // felix's rules match on its sets, which live in its memory: no pod of it is on the node by now, and it makes both
        // anew when it starts. Rules alone would be refused ("Set ... doesn't exist").
        return Ok(());
    }
    for rules in &image.rules {
        let batch = put_back(&rules.owned, &iptables::save(rules.backend, rules.family)?);
        if !batch.is_empty() {
            iptables::restore(rules.backend, rules.family, &batch).context("could not put back iptables rules")?;
        }
    }
    Ok(())
}
