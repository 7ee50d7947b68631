//! `nodectl bundle`: look at everything, take out the secrets, write one archive.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;

use super::settings::Settings;
use super::{doctor, history, look};
use crate::bundle::Bundle;
use crate::cli::BundleArgs;
use crate::failure::code;
use crate::host::{Host, archive, machine};
use crate::report;
use crate::{clock, preflight};

pub(super) fn run(host: &Host, args: &BundleArgs, settings: &Settings) -> Result<u8> {
    let node = machine::hostname().unwrap_or_else(|_| "node".to_owned());
    let folder = format!("nodectl-bundle-{node}-{}", clock::run_id());
    let mut bundle = gather(host, settings);
    bundle.finish(&node);
    let time = u64::try_from(clock::unix_seconds()).unwrap_or_default();
    if args.out.as_deref() == Some(Path::new("-")) {
        archive::write(std::io::stdout().lock(), &folder, time, &bundle.entries)?;
        return Ok(code::DONE);
    }
    let path = args.out.clone().unwrap_or_else(|| PathBuf::from(format!("{folder}.tar.gz")));
    archive::create(&path, &folder, time, &bundle.entries)?;
    let data = json!({
        "outcome": "written", "file": path, "entries": bundle.entries.keys().collect::<Vec<_>>(),
        "missing": bundle.missing, "redacted": bundle.redacted,
    });
    report::result(settings.output, &text(&path, &bundle), &data, true)?;
    Ok(code::DONE)
}

/// What the commands that only look would say, and what they were told from.
fn gather(host: &Host, settings: &Settings) -> Bundle {
    tracing::info!("looking at this node");
    let (facts, findings, silent) = doctor::examine(host, true);
    let mut bundle = Bundle::gather(host, &facts);
    bundle.text("status.txt", &report::status_text(&facts));
    bundle.text("doctor.txt", &report::doctor_text(&findings, &silent));
    bundle.document("doctor.json", &findings);
    tracing::info!("asking what a switch would meet");
    let request = settings.usual_request();
    let facts = look::look(host, request.strategy);
    bundle.text("preflight.txt", &report::preflight_text(&preflight::checks(&facts, &request)));
    match history::runs(host) {
        Ok(runs) => bundle.text("history.txt", &report::history_text(&runs)),
        Err(error) => drop(bundle.missing.insert("history.txt".into(), format!("{error:#}"))),
    }
    bundle
}

fn text(path: &Path, bundle: &Bundle) -> String {
    let missing = bundle.missing_lines();
    let missing = if missing.is_empty() { missing } else { format!("Not to be had:\n{missing}") };
    format!(
        "{} was written: {} files; {} secrets were taken out.\n{missing}It names nodes, pods and addresses: read it before you pass \
         it on.\n",
        path.display(),
        bundle.entries.len(),
        bundle.redacted
    )
}
