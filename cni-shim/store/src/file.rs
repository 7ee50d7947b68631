//! Small files: written whole or not at all, read without surprise.

use cni_spec::error::{self, Error};
use cni_spec::process;
use nix::time::{ClockId, clock_gettime};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Reads a JSON file; `None` if it does not exist, code 6 if it is torn or not what it should be.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(torn(path))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(Error::io("read", path)(cause)),
    }
}

/// The fields of a file that has grown by [`append_json`]: the last whole line counts. A file of one document may have any shape.
fn last_whole(bytes: &[u8]) -> serde_json::Result<Map<String, Value>> {
    let whole = serde_json::from_slice(bytes);
    let lines = || bytes.split(|byte| *byte == b'\n').rev();
    whole.or_else(|cause| lines().find_map(|line| serde_json::from_slice(line).ok()).ok_or(cause))
}

/// Reads one of our own files; `None` if it does not exist, code 6 if it is torn, code 7 if it says a later format than this
/// one: whatever else it holds then, it must stay as it is.
pub fn read_format<T: DeserializeOwned>(path: &Path, known: u32) -> Result<Option<T>, Error> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    let fields = last_whole(&bytes).map_err(torn(path))?;
    if let Some(format) = fields.get("format").and_then(Value::as_u64).filter(|format| *format > known.into()) {
        let fix = format!("this cni-shim reads up to {known}. To fix it: install the later cni-shim again");
        return Err(Error::new(error::CONFIG, format!("{} has format {format}", path.display()), fix));
    }
    serde_json::from_value(Value::Object(fields)).map(Some).map_err(torn(path))
}

/// Reads all of one kind of our own files in a directory; apart from them, those that cannot be read.
pub fn read_all<T: DeserializeOwned>(dir: &Path, known: u32) -> Result<(Vec<T>, Vec<PathBuf>), Error> {
    let (mut found, mut torn) = (Vec::new(), Vec::new());
    for path in list(dir)? {
        match read_format(&path, known) {
            Ok(one) => found.extend(one),
            Err(_) => torn.push(path),
        }
    }
    Ok((found, torn))
}

fn torn(path: &Path) -> impl FnOnce(serde_json::Error) -> Error {
    move |cause| Error::new(error::DECODE, format!("{} is torn or not ours", path.display()), cause.to_string())
}

/// Replaces a file by rename, readable by root only. `durable`: it and its name survive a power cut. ADD does without: a
/// lost record belongs to a pod whose network namespace is lost too, and [`crate::evidence`] finds the rest.
pub fn write(path: &Path, bytes: &[u8], durable: bool) -> Result<(), Error> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let done = (|| {
        let mut file = with_parent(path, || {
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)
        })?;
        file.write_all(bytes)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(parent) if durable => File::open(parent)?.sync_all(),
            _ => Ok(()),
        }
    })();
    done.map_err(|cause| {
        let _ = fs::remove_file(&temporary);
        Error::disk("write", path)(cause)
    })
}

/// [`write`] of a value as JSON.
pub fn write_json<T: Serialize>(path: &Path, value: &T, durable: bool) -> Result<(), Error> {
    let bytes = serde_json::to_vec(value).map_err(Error::io("encode", path))?;
    write(path, &bytes, durable)
}

/// Puts a later version behind what is in the file, as a line of its own: cheaper than a file in its place, which ext4 brings to
/// the disk at once (auto_da_alloc). Whoever reads half of it finds the version before.
pub fn append_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let mut line = vec![b'\n'];
    serde_json::to_writer(&mut line, value).map_err(Error::io("encode", path))?;
    let appended = OpenOptions::new().append(true).open(path).and_then(|mut file| file.write_all(&line));
    match appended {
        Err(cause) if cause.kind() == ErrorKind::NotFound => write_json(path, value, false),
        done => done.map_err(Error::disk("write", path)),
    }
}

/// Opens something, making its directory (root only) and trying again if that is missing.
pub(crate) fn with_parent<T>(path: &Path, open: impl Fn() -> std::io::Result<T>) -> std::io::Result<T> {
    match (open(), path.parent()) {
        (Err(cause), Some(parent)) if cause.kind() == ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
            open()
        }
        (opened, _) => opened,
    }
}

/// Removes a file; one that is gone already is fine.
pub fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != ErrorKind::NotFound => Err(Error::disk("remove", path)(cause)),
        _ => Ok(()),
    }
}

/// The `.json` files of a directory, sorted; none if it does not exist. Temporary files of dead writers are swept.
pub fn list(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(Error::io("list", dir)(cause)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("list", dir))?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => found.push(path),
            Some("tmp") if writer_is_gone(&path) => remove(&path)?,
            _ => {}
        }
    }
    found.sort();
    Ok(found)
}

fn writer_is_gone(temporary: &Path) -> bool {
    let pid = temporary.file_stem().map(Path::new).and_then(Path::extension).and_then(|pid| pid.to_str());
    pid.and_then(|pid| pid.parse().ok()).is_some_and(|pid| process::started(pid).is_none())
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since the boot, suspended ones too; nobody can set this clock.
pub fn since_boot_ms() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// This boot's id; empty if the kernel does not tell.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}
