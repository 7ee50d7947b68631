//! Drafts: files that a killed nodectl had begun and not renamed into place. The lock says that nobody writes them any more.

use std::path::Path;

use anyhow::{Context, Result};

use crate::host::{Host, files};
use crate::plan::Plan;

/// Where nodectl writes whatever the plan is, folders in them included: its own state, what pods have in writing, the message of
/// the day (pam_motd shows every file that is there).
const FOLDERS: [&str; 3] = ["/var/lib/nodectl", "/var/lib/cni", "/run/motd.d"];

/// Removes them from these folders and the shim's, for everyone who takes the lock: a run that was killed before it was open is
/// never taken up.
pub(super) fn sweep(host: &Host) -> Result<()> {
    FOLDERS.iter().try_for_each(|folder| below(&host.path(folder)))?;
    // Listing is what sweeps there.
    for dir in cni_store::Paths::under(host.root()).written() {
        cni_store::file::list(&dir).context("could not look for drafts of the shim")?;
    }
    Ok(())
}

/// Removes them from the folders that a run of this plan writes to besides.
pub(super) fn sweep_of(host: &Host, plan: &Plan) -> Result<()> {
    [&plan.conf_dir, &plan.bin_dir].into_iter().try_for_each(|dir| files::remove_temporaries(&host.path(dir)).map(drop))
}

fn below(folder: &Path) -> Result<()> {
    files::remove_temporaries(folder)?;
    for name in files::list(folder)? {
        let inner = folder.join(name);
        if !inner.is_symlink() && inner.is_dir() {
            below(&inner)?;
        }
    }
    Ok(())
}
