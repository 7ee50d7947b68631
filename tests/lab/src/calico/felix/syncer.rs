//! Reading the datastore in a thread of its own, so that felix goes on with what it has while the API server does not answer.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use anyhow::Result;

use crate::agent::api::Api;

use super::datastore::Datastore;
use super::log;
use super::options::Options;

/// What is known, and when to read all of it again.
struct Syncer {
    api: Arc<dyn Api>,
    node: String,
    options: Options,
    known: Option<Datastore>,
    next_full: Instant,
}

/// Starts the thread: each new picture is sent as `wrap(picture)`. The pods are read often, the rest each resync.
pub fn start<T: Send + 'static>(
    api: Arc<dyn Api>,
    node: &str,
    options: Options,
    sender: Sender<T>,
    wrap: fn(Arc<Datastore>) -> T,
) {
    let mut syncer = Syncer { api, node: node.to_owned(), options, known: None, next_full: Instant::now() };
    std::thread::spawn(move || {
        loop {
            match syncer.turn() {
                Ok(true) => {
                    let Some(known) = syncer.known.clone() else { continue };
                    if sender.send(wrap(Arc::new(known))).is_err() {
                        return;
                    }
                }
                Ok(false) => {}
                Err(error) => log(&format!("the datastore could not be read: {error:#}")),
            }
            std::thread::sleep(syncer.options.poll);
        }
    });
}

impl Syncer {
    /// Reads what is due; true if anything changed.
    fn turn(&mut self) -> Result<bool> {
        let mut changed = match self.known.as_mut() {
            Some(known) => known.refresh_pods(self.api.as_ref(), &self.node)?,
            None => false,
        };
        if Instant::now() >= self.next_full {
            let read = Datastore::read(self.api.as_ref(), &self.node, &self.options)?;
            changed |= self.known.as_ref() != Some(&read);
            self.known = Some(read);
            self.next_full = Instant::now() + self.options.resync;
        }
        Ok(changed)
    }
}
