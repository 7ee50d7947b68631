//! `nodectl plan`: what a switch would do.

use anyhow::{Context, Result};
use serde_json::json;

use super::look;
use super::settings::Settings;
use crate::cli::PlanArgs;
use crate::failure::{Failure, code};
use crate::host::{Host, files};
use crate::plan;
use crate::preflight;
use crate::report;

pub(super) fn run(host: &Host, args: &PlanArgs, settings: &Settings) -> Result<u8> {
    let request = settings.request(&args.switch);
    let facts = look::look(host);
    let checks = preflight::checks(&facts, &request);
    super::preflight::known_ignores(&checks, &request)?;
    let plan = plan::plan(&facts, &request).map_err(|e| Failure::Refused(e.to_string()))?;
    if let Some(path) = &args.out {
        let text = serde_json::to_vec_pretty(&plan).context("could not encode the plan")?;
        files::write_atomic(path, &text, 0o600)?;
    }
    let mut text = report::plan_text(&plan);
    if !preflight::passed(&checks) {
        text.push_str("\nPreflight would refuse this now:\n");
        text.push_str(&report::preflight_text(&checks));
    }
    report::result(settings.output, &text, &json!({"plan": plan, "checks": checks}), false)?;
    Ok(if args.detailed_exitcode && !plan.steps.is_empty() { code::PENDING } else { code::DONE })
}
