//! `cluster status --watch` and `--wait`: looking again whenever something changes.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::args::StatusArgs;
use super::observe::{Scope, observe};
use super::report;
use super::request::Request;
use super::status::{Status, status};
use crate::failure::code;
use crate::host::kube::Kube;
use crate::report::{self as output, OutputFormat};

/// What is looked at besides the Nodes, the agents' pods, is not watched but looked at so often.
const QUIET: Duration = Duration::from_secs(5);
/// The Nodes of a large cluster change all the time.
const PAUSE: Duration = Duration::from_secs(1);

/// Shows where every node stands, until the roll is complete where that was asked for; the exit code.
pub fn follow(kube: &Kube, args: &StatusArgs, request: &Request, format: OutputFormat) -> Result<u8> {
    let mut look = Look { kube, args, request, format, last: None, at: None };
    look.again()?;
    let until = args.wait.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let waits = |look: &Look| (args.watch || until.is_some()) && !look.is_complete();
    if waits(&look) {
        let mut failed = None;
        kube.watch("/api/v1/nodes", &[], QUIET, |_| {
            if look.at.is_none_or(|at| at.elapsed() >= PAUSE) {
                failed = look.again().err();
            }
            let over = until.is_some_and(|until| Instant::now() >= until);
            if failed.is_some() || over || !waits(&look) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        failed.map_or(Ok(()), Err)?;
    }
    if let Some(status) = look.last.as_ref().filter(|_| !args.watch) {
        output::result(format, &report::status_text(status), status, false)?;
    }
    Ok(if look.is_complete() { code::DONE } else { code::PENDING })
}

struct Look<'a> {
    kube: &'a Kube,
    args: &'a StatusArgs,
    request: &'a Request,
    format: OutputFormat,
    last: Option<Status>,
    at: Option<Instant>,
}

impl Look<'_> {
    /// Looks, and with `--watch` shows what has changed.
    fn again(&mut self) -> Result<()> {
        let facts = observe(self.kube, Scope::Agents, self.request)?;
        let now = status(&facts, Some(self.args.to));
        if self.args.watch && self.last.as_ref() != Some(&now) {
            output::one_of_many(self.format, &report::status_text(&now), &now)?;
        }
        (self.last, self.at) = (Some(now), Some(Instant::now()));
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.last.as_ref().is_some_and(|status| status.complete)
    }
}
