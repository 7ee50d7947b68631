//! SIGTERM and SIGINT as something that a loop can wait for.

use std::sync::mpsc::{Receiver, Sender};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Sends `event` on the channel at the first SIGTERM or SIGINT.
///
/// tokio turns signals into events without a handler of our own, which would need unsafe code.
pub fn on_stop<T: Send + 'static>(sender: Sender<T>, event: T) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the signal thread's runtime could not be built")?;
    let (mut term, mut int) = {
        let _inside = runtime.enter();
        let hook = "signals could not be hooked";
        (signal(SignalKind::terminate()).context(hook)?, signal(SignalKind::interrupt()).context(hook)?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        });
        // The loop may be gone already: then nobody needs to be told.
        let _ = sender.send(event);
    });
    Ok(())
}

/// Waits for the next event, or None when the time is over.
pub fn wait<T>(receiver: &Receiver<T>, time: std::time::Duration) -> Option<T> {
    receiver.recv_timeout(time).ok()
}
