//! When containerd reads its configuration folder again: on writes, removals and renames away; not on creation, arrival or chmod.

use anyhow::{Context, Result};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::engine::Engine;

/// What fsnotify reports as WRITE, REMOVE and RENAME. IN_MOVED_TO and link() are its CREATE, which containerd ignores.
const HEARD: AddWatchFlags =
    AddWatchFlags::IN_MODIFY.union(AddWatchFlags::IN_DELETE).union(AddWatchFlags::IN_MOVED_FROM);

/// Watches the engine's folder for ever. A folder that is replaced is not noticed: the watch stays with the old one.
pub fn watch(engine: &Engine) -> Result<()> {
    let folder = engine.folder();
    std::fs::create_dir_all(folder).with_context(|| format!("{} could not be made", folder.display()))?;
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).context("inotify is not available")?;
    inotify.add_watch(folder, HEARD).with_context(|| format!("{} could not be watched", folder.display()))?;
    // What changed before the watch stood.
    engine.load();
    loop {
        let events = inotify.read_events().context("the folder's events could not be read")?;
        // One load an event: a load that reads a half-written file is followed by the load of the rest.
        events.iter().filter(|event| event.mask.intersects(HEARD)).for_each(|_| engine.load());
    }
}
