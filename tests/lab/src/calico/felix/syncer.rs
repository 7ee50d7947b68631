//! Reading the datastore in a thread of its own, so that felix goes on with what it has while the API server does not answer.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use crate::agent::api::Api;

use super::datastore::Datastore;
use super::log;
use super::options::Options;

/// Starts the thread: each new picture is sent as `wrap(picture)`. The pods are read often, the rest each resync.
pub fn start<T: Send + 'static>(
    api: Arc<dyn Api>,
    node: &str,
    options: Options,
    sender: Sender<T>,
    wrap: fn(Arc<Datastore>) -> T,
) {
    let node = node.to_owned();
    std::thread::spawn(move || {
        let mut known: Option<Datastore> = None;
        let mut next_full = Instant::now();
        loop {
            let mut changed = known.as_mut().is_some_and(|known| known.refresh_pods(api.as_ref(), &node));
            if Instant::now() >= next_full {
                match Datastore::read(api.as_ref(), &node, &options) {
                    Ok(read) => {
                        changed |= known.as_ref() != Some(&read);
                        known = Some(read);
                    }
                    Err(error) => log(&format!("the datastore could not be read: {error:#}")),
                }
                next_full = Instant::now() + options.resync;
            }
            if let Some(known) = known.as_ref().filter(|_| changed)
                && sender.send(wrap(Arc::new(known.clone()))).is_err()
            {
                return;
            }
            std::thread::sleep(options.poll);
        }
    });
}
