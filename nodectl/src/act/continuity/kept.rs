//! A session that outlives its process: what it has counted is written beside the run's backups, so that a run which is killed and
//! resumed does not forget it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::probe::{FlowReport, Session, merged};

/// The file's name in the run's folder.
const FILE: &str = "probe.json";
const FORMAT: u32 = 1;
/// How often it is written.
const EVERY: Duration = Duration::from_millis(250);

#[derive(Serialize, Deserialize)]
struct File {
    format: u32,
    flows: Vec<FlowReport>,
}

/// A session that is written down.
pub(super) struct Kept {
    shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
}

struct Shared {
    session: Mutex<Option<Session>>,
    /// What was counted before the run was killed.
    earlier: Vec<FlowReport>,
    folder: PathBuf,
    ended: AtomicBool,
}

impl Kept {
    /// Goes on with what was counted before, if there is any.
    pub fn start(session: Session, folder: &Path) -> Kept {
        let shared = Arc::new(Shared {
            session: Mutex::new(Some(session)),
            earlier: load(folder),
            folder: folder.to_owned(),
            ended: AtomicBool::new(false),
        });
        let keeping = Arc::clone(&shared);
        Kept { shared, keeper: Some(std::thread::spawn(move || keeping.keep())) }
    }

    /// What became of the flows so far.
    pub fn reports(&self) -> Vec<FlowReport> {
        self.shared.so_far()
    }

    /// Asks no more, says what became of the flows, and forgets it.
    pub fn finish(mut self) -> Vec<FlowReport> {
        self.end();
        let session = self.shared.session.lock().unwrap_or_else(PoisonError::into_inner).take();
        let reports = merged(self.shared.earlier.clone(), session.map(Session::finish).unwrap_or_default());
        // Said by now. What is asked on a way back from here is counted anew.
        let _ = fs::remove_file(self.shared.folder.join(FILE));
        reports
    }

    fn end(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(keeper) = self.keeper.take() {
            keeper.thread().unpark();
            // One that was lost has kept what it could.
            let _ = keeper.join();
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn so_far(&self) -> Vec<FlowReport> {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        merged(self.earlier.clone(), session.as_ref().map(Session::reports).unwrap_or_default())
    }

    fn keep(&self) {
        let mut told = false;
        while !self.ended.load(Ordering::Relaxed) {
            std::thread::park_timeout(EVERY);
            if let Err(error) = store(&self.folder, self.so_far())
                && !told
            {
                told = true;
                tracing::warn!("what the probe has counted cannot be written to {}: {error}", self.folder.display());
            }
        }
    }
}

/// What was counted before; nothing where nobody has, or where it cannot be read.
fn load(folder: &Path) -> Vec<FlowReport> {
    let kept = fs::read(folder.join(FILE)).ok().and_then(|text| serde_json::from_slice::<File>(&text).ok());
    kept.filter(|kept| kept.format == FORMAT).map(|kept| kept.flows).unwrap_or_default()
}

/// Replaces the file. It is not brought to the disk: a power cut ends the pods as well.
fn store(folder: &Path, flows: Vec<FlowReport>) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let (path, new) = (folder.join(FILE), folder.join(format!("{FILE}.new")));
    fs::write(&new, serde_json::to_vec(&File { format: FORMAT, flows })?)?;
    fs::rename(new, path)
}
