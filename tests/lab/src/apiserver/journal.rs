//! The store on disk: one JSON line a write, so that a killed server comes back with its objects.
//!
//! No fsync: the lab kills processes, not the machine. A torn last line is a write that was never answered.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::store::Key;

/// An open journal.
pub struct Journal {
    file: File,
}

/// One line read back.
pub enum Record {
    /// What stands before this line is a compacted store at this resource version, not a history.
    Base(u64),
    /// A write.
    Write {
        /// The resource version that it produced.
        revision: u64,
        /// Which object.
        key: Key,
        /// `None`: it was removed.
        object: Option<Value>,
    },
}

#[derive(Serialize, Deserialize)]
struct Line<K, O> {
    rv: u64,
    key: Option<K>,
    object: O,
}

impl Journal {
    /// The records of a journal, in order; none if there is no such file.
    pub fn read(path: &Path) -> anyhow::Result<Vec<Record>> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let mut records = Vec::new();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let Ok(line) = serde_json::from_slice::<Line<[String; 3], Option<Value>>>(line) else {
                break;
            };
            records.push(match line.key {
                None => Record::Base(line.rv),
                Some([resource, namespace, name]) => {
                    Record::Write { revision: line.rv, key: Key { resource, namespace, name }, object: line.object }
                }
            });
        }
        Ok(records)
    }

    /// A new journal in place of the old one, holding only what is there now.
    pub fn rewrite(path: &Path, revision: u64, objects: &BTreeMap<Key, Arc<Value>>) -> anyhow::Result<Self> {
        let scratch = path.with_extension("new");
        let mut journal = Self { file: File::create(&scratch)? };
        let mut objects: Vec<(u64, &Key, &Value)> =
            objects.iter().map(|(key, object)| (revision_of(object), key, object.as_ref())).collect();
        objects.sort_by_key(|(revision, ..)| *revision);
        for (revision, key, object) in objects {
            journal.append(revision, Some(key), Some(object));
        }
        journal.append(revision, None, None);
        std::fs::rename(&scratch, path).with_context(|| format!("replacing the state file {}", path.display()))?;
        journal.file = OpenOptions::new().append(true).open(path)?;
        Ok(journal)
    }

    /// Adds a line. A failure to write shows in the log only: the object is served from memory either way.
    pub fn append(&mut self, revision: u64, key: Option<&Key>, object: Option<&Value>) {
        let key = key.map(|key| [&key.resource, &key.namespace, &key.name]);
        let line = serde_json::to_vec(&Line { rv: revision, key, object });
        let written = line.map_err(std::io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            self.file.write_all(&line)
        });
        if let Err(error) = written {
            eprintln!("apiserver: cannot keep {key:?} in the state file: {error}");
        }
    }
}

fn revision_of(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}
