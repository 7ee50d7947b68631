//! Every object in one map under one lock, with a resource version that only grows and a history for watches.
//!
//! A transaction sees and changes the whole store, so compare-and-swap needs no retry loop here.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::journal::{Journal, Record};

/// How many changes a watch can resume over before it gets 410.
const HISTORY: usize = 4000;

/// Where an object is kept: its resource with its group ("pods", "daemonsets.apps"), namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Plural resource name with its group.
    pub resource: String,
    /// Empty for objects of the whole cluster.
    pub namespace: String,
    /// Object name.
    pub name: String,
}

impl Key {
    /// A key from its parts.
    pub fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Self { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }
}

/// One write: what was there before and after.
#[derive(Debug, Clone)]
pub struct Change {
    /// The resource version that this write produced.
    pub revision: u64,
    /// Which object.
    pub key: Key,
    /// `None` for a new object.
    pub before: Option<Arc<Value>>,
    /// `None` for a removed object.
    pub after: Option<Arc<Value>>,
}

/// The object store. Cheap to share.
pub struct Store {
    inner: Mutex<Inner>,
    revision: watch::Sender<u64>,
}

/// What a transaction works on.
pub struct Inner {
    objects: BTreeMap<Key, Arc<Value>>,
    history: VecDeque<Change>,
    revision: u64,
    compacted: u64,
    journal: Option<Journal>,
}

impl Store {
    /// An empty store; with a path, the one that was there before, kept there from now on.
    pub fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let mut inner =
            Inner { objects: BTreeMap::new(), history: VecDeque::new(), revision: 1, compacted: 0, journal: None };
        if let Some(path) = path {
            for record in Journal::read(path)? {
                inner.replay(record);
            }
            // A server that was started anew watches out of a cache that was filled anew.
            inner.compact();
            inner.journal = Some(Journal::rewrite(path, inner.revision, &inner.objects)?);
        }
        let (revision, _) = watch::channel(inner.revision);
        Ok(Self { inner: Mutex::new(inner), revision })
    }

    /// Runs `work` with the store to itself.
    pub fn transaction<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let before = inner.revision;
        let result = work(&mut inner);
        let after = inner.revision;
        drop(inner);
        if after != before {
            self.revision.send_replace(after);
        }
        result
    }

    /// Follows the newest resource version.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The newest resource version.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<Arc<Value>> {
        self.objects.get(key).cloned()
    }

    /// One object by the parts of its key.
    pub fn find(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.get(&Key::new(resource, namespace, name))
    }

    /// All objects of a resource, of one namespace if given, in the order of namespace and name.
    pub fn list<'a>(
        &'a self,
        resource: &'a str,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> + 'a {
        self.objects
            .range(Key::new(resource, namespace.unwrap_or_default(), "")..)
            .take_while(move |(key, _)| key.resource == resource)
            .take_while(move |(key, _)| namespace.is_none_or(|wanted| key.namespace == wanted))
    }

    /// Every object of every resource.
    pub fn everything(&self) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.objects.iter()
    }

    /// Writes an object, stamped with its new resource version.
    pub fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        object["metadata"]["resourceVersion"] = json!((self.revision + 1).to_string());
        let object = Arc::new(object);
        self.record(&key, Some(&object));
        self.apply(key, Some(object.clone()));
        object
    }

    /// Removes an object; its last state carries the resource version of the removal, as watches expect.
    pub fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let object = self.get(key)?;
        self.record(key, None);
        self.apply(key.clone(), None);
        Some(object)
    }

    /// Changes after `revision`; `None` when some of them are forgotten.
    pub fn changes_since(&self, revision: u64) -> Option<Vec<Change>> {
        if revision < self.compacted {
            return None;
        }
        let start = self.history.partition_point(|change| change.revision <= revision);
        Some(self.history.range(start..).cloned().collect())
    }

    /// The oldest resource version that a watch can resume from.
    pub fn compacted(&self) -> u64 {
        self.compacted
    }

    /// Forgets the history, as the real store does every few minutes.
    pub fn compact(&mut self) {
        self.history.clear();
        self.compacted = self.revision;
    }

    fn apply(&mut self, key: Key, object: Option<Arc<Value>>) {
        self.revision += 1;
        let before = match &object {
            Some(object) => self.objects.insert(key.clone(), object.clone()),
            None => self.objects.remove(&key),
        };
        let change = Change { revision: self.revision, key, before, after: object };
        self.history.push_back(change);
        if self.history.len() > HISTORY
            && let Some(forgotten) = self.history.pop_front()
        {
            self.compacted = forgotten.revision;
        }
    }

    fn replay(&mut self, record: Record) {
        match record {
            Record::Base(revision) => {
                self.revision = revision;
                self.compact();
            }
            Record::Write { revision, key, object } => {
                self.revision = revision.saturating_sub(1);
                self.apply(key, object.map(Arc::new));
            }
        }
    }

    fn record(&mut self, key: &Key, object: Option<&Arc<Value>>) {
        let revision = self.revision + 1;
        if let Some(journal) = &mut self.journal {
            journal.append(revision, Some(key), object.map(Arc::as_ref));
        }
    }
}
