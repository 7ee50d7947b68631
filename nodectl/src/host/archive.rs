//! A compressed archive of texts.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};

/// Writes a `.tar.gz` with these files in a folder of this name, for its owner alone; no file that is there is overwritten. The
/// time of all is given in seconds since 1970.
pub fn create<'a>(
    path: &Path,
    folder: &str,
    time: u64,
    files: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|e| match e.kind() {
        ErrorKind::AlreadyExists => {
            anyhow!("{} is there already. To fix it: name another file with --out", path.display())
        }
        _ => anyhow!(
            "{} could not be made: {e}. To fix it: name a file in a folder that can be written with --out",
            path.display()
        ),
    })?;
    let written = write(&file, folder, time, files).and_then(|()| file.sync_all().context("could not sync it"));
    written.map_err(|error| {
        // Half an archive is none.
        let _ = fs::remove_file(path);
        error.context(format!(
            "{} could not be written. To fix it: name a file where there is room with --out",
            path.display()
        ))
    })
}

/// The same to anything that takes bytes.
pub fn write<'a>(
    to: impl Write,
    folder: &str,
    time: u64,
    files: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Result<()> {
    let mut archive = Builder::new(GzEncoder::new(to, Compression::default()));
    for (name, text) in files {
        let mut header = Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(time);
        archive.append_data(&mut header, format!("{folder}/{name}"), text.as_bytes()).with_context(|| name.clone())?;
    }
    archive
        .into_inner()
        .and_then(GzEncoder::finish)
        .and_then(|mut to| to.flush())
        .context("the end could not be written")
}
