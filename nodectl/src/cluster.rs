//! `nodectl cluster`: the cluster's side of a roll, the only part that needs an administrator's kubeconfig.
//!
//! observe -> decide -> execute -> observe ..., until nothing is left to be decided: every object that a decision
//! rests on is read once ([`observe`]), the decision is pure ([`prepare`], [`finish`], [`abort`], [`status`]), the
//! writes are done one by one ([`execute`]), and what they came to is read again ([`drive`]).

pub mod abort;
mod args;
mod backup;
mod calico;
pub mod change;
pub mod check;
mod daemon_set;
pub mod decision;
mod drive;
mod execute;
pub mod facts;
pub mod finish;
mod flannel;
pub mod ipam;
mod node;
pub mod object;
mod observe;
pub mod prepare;
pub mod record;
pub mod report;
pub mod request;
pub mod status;
mod version;

use anyhow::Result;

pub use args::ClusterArgs;
use args::{ClusterCommand, StatusArgs, WriteArgs};
use decision::Decision;
use drive::Drive;
pub use drive::Run;
use facts::ClusterFacts;
use observe::Scope;
use request::{Now, Request};

use crate::failure::code;
use crate::host::kube::Kube;
use crate::report::{self as output, OutputFormat};

/// Runs the command; the exit code where it did not fail.
pub fn run(args: &ClusterArgs, format: OutputFormat) -> Result<u8> {
    let kube = Kube::for_admin(args.kubeconfig.as_deref(), args.context.as_deref())?;
    match &args.command {
        ClusterCommand::Prepare(prepare) => {
            let request = prepare.request();
            write(&kube, "prepare", Scope::Addresses, prepare::decide, request, &prepare.write, format)
        }
        ClusterCommand::Finish(finish) => {
            let request = Request { keep_reservations: finish.keep_reservations, ..finish.agents.request() };
            write(&kube, "finish", Scope::FlannelRest, finish::decide, request, &finish.write, format)
        }
        ClusterCommand::Abort(abort) => {
            let request = abort.agents.request();
            write(&kube, "abort", Scope::Addresses, abort::decide, request, &abort.write, format)
        }
        ClusterCommand::Status(status) => show_status(&kube, status, format),
    }
}

fn write(
    kube: &Kube,
    command: &'static str,
    scope: Scope,
    decide: fn(&ClusterFacts, &Request) -> Decision,
    request: Request,
    args: &WriteArgs,
    format: OutputFormat,
) -> Result<u8> {
    let drive = Drive {
        kube,
        command,
        scope,
        decide,
        backup_dir: &args.backup_dir,
        dry_run: args.dry_run,
        wait: std::time::Duration::from_secs(args.wait),
    };
    let run = drive.run(request)?;
    let changed = !run.dry_run && !run.changes.is_empty();
    output::result(format, &report::run_text(&run), &report::run_json(&run), changed)?;
    Ok(exit_code(&run, args.detailed_exitcode))
}

fn exit_code(run: &Run, detailed: bool) -> u8 {
    if run.refused {
        return if run.changes.is_empty() { code::REFUSED } else { code::NEEDS_HANDS };
    }
    if run.dry_run {
        let pending = !run.changes.is_empty() || !run.pending.is_empty();
        return if detailed && pending { code::PENDING } else { code::DONE };
    }
    if run.pending.is_empty() { code::DONE } else { code::NEEDS_HANDS }
}

fn show_status(kube: &Kube, args: &StatusArgs, format: OutputFormat) -> Result<u8> {
    let request = Request { now: Now::default(), ..args.agents.request() };
    let facts = observe::observe(kube, Scope::Agents, &request)?;
    let status = status::status(&facts, Some(args.to));
    output::result(format, &report::status_text(&status), &status, false)?;
    Ok(if status.complete { code::DONE } else { code::PENDING })
}
