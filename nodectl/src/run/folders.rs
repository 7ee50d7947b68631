//! /var/lib/nodectl: journals, snapshots, backups, receipts, reports, and the file that names the open run.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::act::RunFolder;
use crate::host::{Host, files};
use crate::journal::{self, Journal, Log, Outcome, Record};
use crate::plan::Plan;

/// How many runs' backups are kept.
const BACKUPS: usize = 5;

/// nodectl's own folder on a node.
#[derive(Debug, Clone)]
pub struct Folders {
    base: PathBuf,
}

impl Folders {
    /// Those of this node; created where missing, for root alone (journals and backups hold what Calico's tokens open).
    pub fn new(host: &Host) -> Result<Folders> {
        let base = host.path("/var/lib/nodectl");
        let folders = Folders { base };
        folders.all().iter().try_for_each(|folder| files::create_directory(folder, 0o700))?;
        Ok(folders)
    }

    /// Every folder that all runs share.
    pub(super) fn all(&self) -> Vec<PathBuf> {
        ["", "journal", "snapshots", "receipts", "reports", "backup"].map(|name| self.base.join(name)).to_vec()
    }

    /// Path of a run's journal.
    pub fn journal(&self, run: &str) -> PathBuf {
        self.base.join("journal").join(format!("{run}.jsonl"))
    }

    /// A run's folders as steps see them.
    pub fn of_run(&self, run: &str) -> RunFolder {
        RunFolder { id: run.to_owned(), backup: self.base.join("backup").join(run) }
    }

    /// Id of the open run.
    pub fn open_run(&self) -> Result<Option<String>> {
        let text = files::read_text_optional(&self.base.join("open"))?;
        Ok(text.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()))
    }

    /// How a run ended, where it has.
    pub fn outcome(&self, run: &str) -> Result<Option<Outcome>> {
        Ok(journal::read(&self.journal(run))?.outcome())
    }

    /// A run's plan.
    pub fn plan(&self, run: &str) -> Result<Option<Plan>> {
        Ok(journal::read(&self.journal(run))?.plan().cloned())
    }

    /// Creates a run's journal, then names the run as the open one: only from then on is there anything to undo.
    pub fn begin(&self, run: &str, open: &Record) -> Result<Journal> {
        let journal = Journal::create(&self.journal(run), open)?;
        files::write_atomic(&self.base.join("open"), format!("{run}\n").as_bytes(), 0o600)?;
        Ok(journal)
    }

    /// Removes the backups of old runs: they hold whole plugin binaries. No run needs those of one before it; a person who
    /// looks for a file may need the last few.
    pub fn prune_backups(&self) -> Result<()> {
        let backups = self.base.join("backup");
        let mut runs = files::list(&backups)?;
        runs.sort_unstable();
        runs.iter().rev().skip(BACKUPS).try_for_each(|run| files::remove_directory(&backups.join(run)).map(drop))
    }

    /// No run is open any more.
    pub fn end(&self) -> Result<()> {
        files::remove(&self.base.join("open")).map(drop)
    }

    /// Keeps a document of a run in one of the folders.
    pub fn keep(&self, folder: &str, run: &str, document: &impl Serialize) -> Result<PathBuf> {
        let path = self.base.join(folder).join(format!("{run}.json"));
        let text = serde_json::to_vec_pretty(document).context("could not encode a document of the run")?;
        files::write_atomic(&path, &text, 0o600)?;
        Ok(path)
    }

    /// Every run's id and journal, oldest first. Ids begin with their time.
    pub fn runs(&self) -> Result<Vec<(String, Log)>> {
        let mut names = files::list(&self.base.join("journal"))?;
        names.sort_unstable();
        names
            .iter()
            .filter_map(|name| name.strip_suffix(".jsonl"))
            .filter_map(|run| match journal::read(&self.journal(run)) {
                Ok(log) => Some(Ok((run.to_owned(), log))),
                // One damaged journal of old must not hide the others.
                Err(error) => {
                    tracing::warn!("left out: {error:#}");
                    None
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backups_of_the_last_runs_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let folders = Folders::new(&Host::new(root.path())).unwrap();
        let backups = root.path().join("var/lib/nodectl/backup");
        for day in 10..18 {
            let folder = backups.join(format!("202611{day}t120000z-1/opt/cni/bin"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("bridge"), "x").unwrap();
        }
        folders.prune_backups().unwrap();
        folders.prune_backups().unwrap();
        let mut left = files::list(&backups).unwrap();
        left.sort_unstable();
        assert_eq!((left.len(), left[0].as_str()), (BACKUPS, "20261113t120000z-1"));
        assert!(backups.join("20261117t120000z-1/opt/cni/bin/bridge").exists());
    }
}
