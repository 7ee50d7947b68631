//! Drafts: files that a killed nodectl had begun and not renamed into place. The lock says that nobody writes them any more.

use std::path::Path;

use anyhow::{Context, Result};

use super::Folders;
use crate::act::RunFolder;
use crate::host::{Host, files};
use crate::plan::Plan;

/// Removes them from every folder that a run of this plan writes to.
pub(super) fn sweep(host: &Host, folders: &Folders, run: &RunFolder, plan: &Plan) -> Result<()> {
    for dir in [&plan.conf_dir, &plan.bin_dir] {
        files::remove_temporaries(&host.path(dir))?;
    }
    folders.all().iter().try_for_each(|folder| files::remove_temporaries(folder).map(drop))?;
    below(&run.backup)?;
    // Listing is what sweeps there.
    for dir in cni_shim::Paths::under(host.root()).written() {
        cni_shim::file::list(&dir).context("could not look for drafts of the shim")?;
    }
    Ok(())
}

/// Backups keep the paths of what they hold.
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
