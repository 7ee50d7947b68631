//! `nodectl cluster`: the cluster's side of a roll, the only part that needs an administrator's kubeconfig.
//!
//! observe -> decide -> execute -> observe ..., until nothing is left to be decided: every object that a decision
//! rests on is read once ([`observe`]), the decision is pure ([`prepare`], [`pace`], [`finish`], [`abort`], [`status`]), the
//! writes are done ([`execute`]), and what they came to is read again ([`drive`]).

pub mod abort;
mod args;
mod backup;
mod calico;
pub mod change;
pub mod check;
pub mod config;
pub mod control_plane;
mod daemon_set;
pub mod decision;
mod drive;
mod execute;
pub mod facts;
pub mod finish;
mod flannel;
pub mod fleet;
mod follow;
mod inhabitants;
pub mod ipam;
pub mod manifest;
mod node;
pub mod object;
mod observe;
pub mod pace;
pub mod prepare;
pub mod record;
pub mod report;
pub mod request;
pub mod status;
mod version;

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

pub use args::ClusterArgs;
use args::{ClusterCommand, ManifestArgs, WriteArgs};
pub use config::ClusterConfig;
use decision::{Decision, Survey};
use drive::Drive;
pub use drive::Run;
use facts::ClusterFacts;
use observe::Scope;
use request::Request;

use crate::failure::{Failure, code};
use crate::host::kube::Kube;
use crate::report::{self as output, OutputFormat};

/// Where objects are saved before they are changed, where nothing else is said.
const BACKUP_DIR: &str = "/var/lib/nodectl/backup";

/// Runs the command; the exit code where it did not fail.
pub fn run(args: &ClusterArgs, config: &ClusterConfig, format: OutputFormat) -> Result<u8> {
    let kubeconfig = args.kubeconfig.as_deref().or(config.kubeconfig.as_deref());
    let kube = Kube::for_admin(kubeconfig, args.context.as_deref().or(config.context.as_deref()))?;
    let writing = |command, scope, decide: fn(&ClusterFacts, &Request) -> Decision, request, args: &WriteArgs| {
        let backup_dir = args.backup_dir.as_deref().or(config.backup_dir.as_deref()).unwrap_or(Path::new(BACKUP_DIR));
        let drive = Drive {
            kube: &kube,
            command,
            scope,
            decide,
            backup_dir,
            dry_run: args.dry_run,
            wait: std::time::Duration::from_secs(args.wait),
            parallel: usize::from(args.parallel),
        };
        write(&drive, config.complete(request), args.detailed_exitcode, format)
    };
    match &args.command {
        ClusterCommand::Prepare(prepare) => {
            writing("prepare", Scope::PodAddresses, prepare::decide, prepare.request(), &prepare.write)
        }
        ClusterCommand::Manifest(manifest) => show_manifest(&kube, manifest, config, format),
        ClusterCommand::Allow(allow) => {
            let request = Request { nodes: allow.nodes.clone(), force: allow.force, ..allow.agents.request() };
            writing("allow", Scope::ControlPlane, pace::allow, request, &allow.write)
        }
        ClusterCommand::Pause(pause) => {
            let request = Request { nodes: pause.nodes.clone(), ..pause.agents.request() };
            writing("pause", Scope::Agents, pace::pause, request, &pause.write)
        }
        ClusterCommand::Finish(finish) => {
            let request = Request { keep_reservations: finish.keep_reservations, ..finish.agents.request() };
            writing("finish", Scope::FlannelRest, finish::decide, request, &finish.write)
        }
        ClusterCommand::Abort(abort) => {
            writing("abort", Scope::Addresses, abort::decide, abort.agents.request(), &abort.write)
        }
        ClusterCommand::Status(status) => {
            follow::follow(&kube, status, &config.complete(status.agents.request()), format)
        }
    }
}

fn write(drive: &Drive, request: Request, detailed_exitcode: bool, format: OutputFormat) -> Result<u8> {
    let run = drive.run(request)?;
    let changed = !run.dry_run && !run.changes.is_empty();
    output::result(format, &report::run_text(&run), &report::run_json(&run), changed)?;
    Ok(exit_code(&run, detailed_exitcode))
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

fn show_manifest(kube: &Kube, args: &ManifestArgs, config: &ClusterConfig, format: OutputFormat) -> Result<u8> {
    let objects = read_manifest(&args.file)?;
    let request = config.complete(args.agents.request());
    let facts = observe::observe(kube, Scope::Addresses, &request)?;
    let survey = Survey::new(&facts, &request);
    let Some(flannel) = &survey.flannel else {
        let refused: Vec<&str> = survey.checks.iter().filter(|c| c.is_refused()).map(|c| c.finding.as_str()).collect();
        bail!(Failure::Refused(format!("flannel was not found in this cluster: {}", refused.join("; "))));
    };
    let shown = args.file.display();
    let safe = manifest::safe(&survey, flannel, objects)
        .map_err(|why| Failure::Refused(format!("the manifest {shown} cannot be made safe: {why}")))?;
    let mut text: String = safe.notes.iter().map(|note| format!("# {note}\n")).collect();
    for object in &safe.objects {
        text.push_str("---\n");
        text.push_str(&yaml_serde::to_string(object).context("could not write the manifest as YAML")?);
    }
    output::result(format, &text, &json!({"notes": safe.notes, "objects": safe.objects}), false)?;
    Ok(code::DONE)
}

/// The objects of a file in YAML (JSON is YAML too).
fn read_manifest(file: &Path) -> Result<Vec<Value>> {
    let shown = file.display();
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    let text = text.with_context(|| format!("could not read the manifest {shown}"))?;
    let documents = yaml_serde::Deserializer::from_str(&text).map(Value::deserialize);
    documents.collect::<Result<_, _>>().with_context(|| format!("the manifest {shown} is not YAML"))
}
