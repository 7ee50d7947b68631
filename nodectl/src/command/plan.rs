//! `nodectl plan`: what a switch would do.

use std::path::Path;

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
    let request = settings.asked(&args.switch)?;
    super::preflight::known_ignores(&request)?;
    let facts = look::look(host, request.strategy);
    let checks = preflight::checks(&facts, &request);
    let plan = plan::plan(&facts, &request).map_err(|e| Failure::Refused(e.to_string()))?;
    if let Some(path) = &args.out {
        let text = serde_json::to_vec_pretty(&plan).context("could not encode the plan")?;
        save(path, &text)?;
    }
    let mut text = report::plan_text(&plan);
    if !plan.steps.is_empty() && !preflight::passed(&checks) {
        text.push_str("\nPreflight would refuse this now:\n");
        text.push_str(&report::preflight_text(&checks));
    }
    report::result(settings.output, &text, &json!({"plan": plan, "checks": checks}), false)?;
    Ok(if args.detailed_exitcode && !plan.steps.is_empty() { code::PENDING } else { code::DONE })
}

/// Writes where the operator says: a link stays one, and a device or a pipe is written to, never replaced.
fn save(path: &Path, text: &[u8]) -> Result<()> {
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let saved = match target.exists() && !target.is_file() {
        true => std::fs::write(&target, text).with_context(|| format!("could not write {}", path.display())),
        false => files::write_atomic(&target, text, 0o600),
    };
    saved.context("the plan was not saved. To fix it: name a file in a folder that can be written to")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_stays_a_link_and_a_pipe_is_written_to() {
        let folder = tempfile::tempdir().expect("a directory");
        let at = |name: &str| folder.path().join(name);
        std::os::unix::fs::symlink("behind", at("link")).expect("a link");
        std::fs::write(at("behind"), "old").expect("a file");
        save(&at("link"), b"new").expect("saved");
        assert!(at("link").is_symlink());
        assert_eq!(std::fs::read(at("behind")).expect("a file"), b"new");
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let (pipe, read) = (
            at("pipe"),
            std::thread::spawn({
                let pipe = at("pipe");
                move || std::fs::read(pipe)
            }),
        );
        save(&pipe, b"plan").expect("written");
        assert_eq!(read.join().expect("a thread").expect("a pipe"), b"plan");
        let refused = save(&at("none/plan.json"), b"plan").expect_err("there is no such folder");
        assert!(format!("{refused:#}").contains("To fix it"));
    }
}
