//! /var/lib/nodectl: journals, snapshots, backups, receipts, reports, and the file that names the open run.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::act::RunFolder;
use crate::failure::Failure;
use crate::host::{Host, files};
use crate::journal::{self, Journal, Log, Record};

/// How many runs' backups are kept.
const BACKUPS: usize = 5;

/// nodectl's own folder on a node.
#[derive(Debug, Clone)]
pub struct Folders {
    base: PathBuf,
}

impl Folders {
    /// Those of this node, as they are: for looking.
    pub fn at(host: &Host) -> Folders {
        Folders { base: host.path("/var/lib/nodectl") }
    }

    /// Those of this node; created where missing, for root alone (journals and backups hold what Calico's tokens open).
    pub fn new(host: &Host) -> Result<Folders> {
        let folders = Folders::at(host);
        folders.all().iter().try_for_each(|folder| files::create_directory(folder, 0o700)).context(
            "nodectl's own folder cannot be made. To fix it: see that /var/lib is mounted and can be written",
        )?;
        Ok(folders)
    }

    /// Every folder that all runs share.
    fn all(&self) -> Vec<PathBuf> {
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

    /// The open run's journal. One that cannot be read leaves the node to hands, whatever half it is in.
    pub fn open_log(&self, run: &str) -> Result<Log> {
        journal::read(&self.journal(run)).map_err(|error| self.unreadable(run, &error))
    }

    /// What to do about an open run whose journal cannot be read.
    pub fn unreadable(&self, run: &str, why: &anyhow::Error) -> anyhow::Error {
        Failure::NeedsHands(format!(
            "run {run} is open, and what it has done cannot be read: {why:#}. To fix it: put its journal back from a backup, or \
             use the nodectl that wrote it. Where neither can be had, bring the node to one CNI by hand (`nodectl status` shows \
             where it stands); then remove {} and that journal",
            self.base.join("open").display()
        ))
        .into()
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

    /// Every run's id and journal, oldest first; where a journal cannot be read, why. Ids begin with their time.
    pub fn runs(&self) -> Result<Vec<(String, Result<Log>)>> {
        let mut names = files::list(&self.base.join("journal"))?;
        names.sort_unstable();
        let runs = names.iter().filter_map(|name| name.strip_suffix(".jsonl"));
        Ok(runs.map(|run| (run.to_owned(), journal::read(&self.journal(run)))).collect())
    }

    /// The last closed run that this says yes to; an error where a later one cannot be read, since it may be the one.
    pub fn last(&self, wanted: impl Fn(&Log) -> bool) -> Result<Option<(String, Log)>> {
        for (run, log) in self.runs()?.into_iter().rev() {
            let log = log.map_err(|error| {
                Failure::Refused(format!(
                    "what run {run} did cannot be read, and it may be the last one: {error:#}; nothing was changed. To fix it: \
                     put its journal back from a backup, or move it away and say where to go: `nodectl migrate --to`"
                ))
            })?;
            if wanted(&log) {
                return Ok(Some((run, log)));
            }
        }
        Ok(None)
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
