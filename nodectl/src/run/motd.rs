//! The message of the day while a run is open: whoever logs in reads it first.

use std::path::Path;

use super::Folders;
use crate::host::{Host, files};
use crate::report;

/// Read by pam_motd (1.3.1 and later) at each login. Under /run: the boot-time unit writes it again after a reboot.
const FILE: &str = "/run/motd.d/85-nodectl.motd";

/// Says what is open on this node, or nothing. A login must not fail for it, nor a run.
pub fn update(host: &Host) {
    let path = host.path(FILE);
    let text = Folders::at(host).open_run().and_then(|run| {
        let Some(run) = run else { return Ok(None) };
        let log = Folders::at(host).open_log(&run)?;
        Ok(log.position().map(|at| report::motd_text(&run, log.by(), &at)))
    });
    let written = match text {
        Ok(Some(text)) => files::create_directory(path.parent().unwrap_or(Path::new("/")), 0o755)
            .and_then(|()| files::write_atomic(&path, text.as_bytes(), 0o644)),
        // A run whose journal cannot be read is as open as any.
        Err(error) => files::write_atomic(&path, format!("nodectl: {error:#}\n").as_bytes(), 0o644),
        Ok(None) if files::exists(&path) => files::remove(&path).map(drop),
        Ok(None) => Ok(()),
    };
    if let Err(error) = written {
        tracing::debug!("the message of the day: {error:#}");
    }
}
