//! All sandboxes and containers, in memory and on disk: a restart of the runtime forgets nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::records::{Container, Sandbox};

/// An id that names nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotFound(pub String);

impl std::fmt::Display for NotFound {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(out, "{}: not found", self.0)
    }
}

impl std::error::Error for NotFound {}

/// Records by id, each also a file.
pub struct Table<R> {
    folder: PathBuf,
    records: Mutex<BTreeMap<String, R>>,
}

/// The runtime's memory.
pub struct Store {
    /// All sandboxes.
    pub sandboxes: Table<Sandbox>,
    /// All containers.
    pub containers: Table<Container>,
}

impl Store {
    /// Reads what an earlier runtime left.
    pub fn open(folder: &Path) -> Result<Store> {
        Ok(Store {
            sandboxes: Table::open(folder.join("sandboxes"))?,
            containers: Table::open(folder.join("containers"))?,
        })
    }

    /// The containers of a sandbox.
    pub fn containers_of(&self, sandbox: &str) -> Vec<Container> {
        self.containers.all().into_iter().filter(|container| container.sandbox == sandbox).collect()
    }
}

impl<R: Clone + Serialize + DeserializeOwned> Table<R> {
    /// Reads all records of a folder; one that was being written at a power cut is dropped.
    fn open(folder: PathBuf) -> Result<Table<R>> {
        fs::create_dir_all(&folder).with_context(|| format!("{} could not be made", folder.display()))?;
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(&folder).with_context(|| format!("{} could not be read", folder.display()))?.flatten()
        {
            let record = fs::read(entry.path()).ok().and_then(|text| serde_json::from_slice(&text).ok());
            if let (Some(record), Some(id)) = (record, entry.file_name().to_str()) {
                records.insert(id.to_owned(), record);
            }
        }
        Ok(Table { folder, records: Mutex::new(records) })
    }

    /// The records, for as long as the answer lives.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, R>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All records.
    pub fn all(&self) -> Vec<R> {
        self.lock().values().cloned().collect()
    }

    /// The record of an id, or of the only one that begins so.
    pub fn get(&self, id: &str) -> Result<R> {
        let records = self.lock();
        let mut found =
            records.range(id.to_owned()..).take_while(|(key, _)| key.starts_with(id)).map(|(_, record)| record);
        match (found.next(), found.next()) {
            (Some(record), None) if !id.is_empty() => Ok(record.clone()),
            _ => Err(NotFound(format!("an error occurred when try to find {id:?}")).into()),
        }
    }

    /// Adds or replaces a record.
    pub fn put(&self, id: &str, record: R) -> Result<()> {
        let mut records = self.lock();
        self.write(id, &record)?;
        records.insert(id.to_owned(), record);
        Ok(())
    }

    /// Changes a record that is there; one that is gone stays so.
    pub fn change(&self, id: &str, how: impl FnOnce(&mut R)) -> Result<()> {
        let mut records = self.lock();
        let Some(record) = records.get_mut(id) else {
            return Ok(());
        };
        how(record);
        self.write(id, record)
    }

    /// Removes a record.
    pub fn remove(&self, id: &str) {
        let mut records = self.lock();
        // ENOENT: it was never written.
        let _ = fs::remove_file(self.folder.join(id));
        records.remove(id);
    }

    /// Writes a record's file, whole or not at all, and through to the disk, as containerd's database does.
    fn write(&self, id: &str, record: &R) -> Result<()> {
        let (path, temporary) = (self.folder.join(id), self.folder.join(format!(".{id}")));
        let text = serde_json::to_vec(record).context("a record cannot be written")?;
        let written = || {
            let mut file = File::create(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        written().with_context(|| format!("{} could not be written", path.display()))
    }
}
