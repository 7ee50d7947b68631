//! `nodectl doctor`: look, ask the peers, say what is wrong.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::settings::Settings;
use crate::cleanup::record;
use crate::cli::DoctorArgs;
use crate::cni::Cni;
use crate::doctor::{self, Begun, Finding, State};
use crate::facts::Facts;
use crate::failure::code;
use crate::host::{Host, files};
use crate::observe;
use crate::report::{self, OutputFormat};

/// Where distributions have node_exporter look for files: Debian's package, the one of the Prometheus community.
const COLLECTORS: [&str; 2] = ["/var/lib/prometheus/node-exporter", "/var/lib/node_exporter/textfile_collector"];

pub(super) fn run(host: &Host, args: &DoctorArgs, settings: &Settings) -> Result<u8> {
    if let Some(named) = &args.textfile {
        return textfile(host, named.as_deref(), args, settings);
    }
    let (facts, findings, silent) = examine(host, !args.no_probe);
    if args.nagios {
        report::result(OutputFormat::Text, &report::doctor_nagios(&findings), &(), false)?;
        return Ok(nagios_code(&findings));
    }
    if args.prometheus {
        let text = report::doctor_prometheus(&findings, &facts);
        report::result(OutputFormat::Text, &text, &(), false)?;
    } else {
        let outcome = if findings.is_empty() { "clean" } else { "findings" };
        let data = json!({"outcome": outcome, "findings": findings, "silent": silent});
        report::result(settings.output, &report::doctor_text(&findings, &silent), &data, false)?;
    }
    Ok(if findings.is_empty() { code::DONE } else { code::PENDING })
}

/// What is there, what is wrong with it, and who did not answer.
pub(super) fn examine(host: &Host, probe: bool) -> (Facts, Vec<Finding>, Vec<&'static str>) {
    let mut facts = observe::closely(host);
    let begun = begun(host, &mut facts);
    if probe {
        ask_peers(&mut facts, &begun);
    }
    let findings = doctor::examine(&facts, &begun);
    // What those two do not tell hides what only they know; on a machine without Kubernetes that is nothing.
    let silent = ["cluster", "runtime"].into_iter().filter(|part| facts.unobserved.contains_key(*part)).collect();
    (facts, findings, silent)
}

/// The findings as a file that is whole whenever it is read. node_exporter runs as a user of its own.
fn textfile(host: &Host, named: Option<&Path>, args: &DoctorArgs, settings: &Settings) -> Result<u8> {
    let usual = || COLLECTORS.iter().map(|folder| host.path(folder)).find(|folder| folder.is_dir());
    let configured = || settings.config.metrics_file.as_ref().map(|path| host.path(path));
    let path = named.map(Path::to_owned).or_else(configured).or_else(|| Some(usual()?.join("nodectl.prom")));
    let Some(path) = path else {
        let text = "Nothing was written: no folder of node_exporter is here. metrics_file names a file.\n";
        report::result(settings.output, text, &json!({"outcome": "nothing-to-do"}), false)?;
        return Ok(code::DONE);
    };
    let (facts, findings, _) = examine(host, !args.no_probe);
    files::write_atomic(&path, report::doctor_prometheus(&findings, &facts).as_bytes(), 0o644)
        .context("To fix it: make its folder, or name another file")?;
    let text = format!("{} was written.\n", path.display());
    report::result(settings.output, &text, &json!({"outcome": "written", "file": path}), true)?;
    Ok(code::DONE)
}

/// What killed cleanups had known. A record that cannot be read is one thing more that could not be looked at.
fn begun(host: &Host, facts: &mut Facts) -> Begun {
    let mut begun = Begun::new();
    for cni in [Cni::Flannel, Cni::Calico] {
        match record::unfinished(host, cni) {
            Ok(found) => begun.extend(found.map(|record| (cni, record.known))),
            Err(error) => {
                facts.unobserved.insert(format!("cleanups of {cni}"), format!("{error:#}"));
            }
        }
    }
    begun
}

fn ask_peers(facts: &mut Facts, begun: &Begun) {
    let targets = doctor::peers(&doctor::Node::new(facts, begun));
    match observe::peers(&targets) {
        Ok(peers) => {
            if let Some(traces) = &mut facts.traces {
                traces.peers = peers;
            }
        }
        Err(error) => {
            facts.unobserved.insert("peers".into(), format!("{error:#}"));
        }
    }
}

/// Nagios' exit codes.
fn nagios_code(findings: &[Finding]) -> u8 {
    match State::of(findings) {
        State::Ok => code::DONE,
        State::Warning => 1,
        State::Critical => 2,
        State::Unknown => 3,
    }
}
