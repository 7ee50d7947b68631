//! Files that an earlier life of the CNI that is to come has left. Its installer takes them over; a run that is taken back
//! puts them back as they were, for they were there before it.

use anyhow::Result;
use serde_json::{Value, json};

use super::Context;
use crate::host::backup;
use crate::plan::Plan;
use crate::remove::Aside;
use crate::step::Step;

fn copies(cx: &Context) -> Aside {
    Aside::Into(cx.run.backup.join("before"))
}

pub(super) fn preserve(cx: &Context, files: &[String]) -> Result<Value> {
    let copies = copies(cx);
    for file in files {
        if let Some(copy) = copies.path(file) {
            backup::keep(&cx.host.path(file), &copy)?;
        }
    }
    Ok(json!({ "kept": files.len() }))
}

pub(super) fn put_back(cx: &Context, files: &[String]) -> Result<()> {
    let copies = copies(cx);
    files
        .iter()
        .filter_map(|file| Some((file, copies.path(file)?)))
        .try_for_each(|(file, copy)| backup::restore(&copy, &cx.host.path(file)))
}

/// Paths that were there before the run: the way back must not take them for what the new agent has made.
pub fn of_before(plan: &Plan) -> impl Iterator<Item = &String> {
    plan.steps.iter().flat_map(|step| match step {
        Step::PreserveFiles { files, .. } => files.as_slice(),
        _ => &[],
    })
}
