//! What a cleanup writes down before it begins: `/var/lib/nodectl/cleanups/<id>.open.json`, renamed when it has ended.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cni::Cni;
use crate::host::{Host, files};
use crate::ownership::{Claim, Known};
use crate::step::RemovedImage;

/// Version of the record's form.
pub const RECORD_FORMAT: u32 = 1;

/// Suffix of the record of a cleanup that has not ended.
const OPEN: &str = ".open.json";

/// A cleanup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`RECORD_FORMAT`].
    pub format: u32,
    /// nodectl's version.
    pub tool: String,
    /// Its id; the backup folder is named so too.
    pub id: String,
    /// The CNI.
    pub cni: Cni,
    /// When it began, RFC 3339.
    pub at: String,
    /// Why, as given with `--reason`.
    #[serde(default)]
    pub reason: Option<String>,
    /// What was known of the CNI.
    pub known: Known,
    /// What was to be removed, in the form in which it can be put back by hand.
    pub removed: RemovedImage,
    /// Object by object, with the evidence.
    pub claims: Vec<Claim>,
}

/// Notes a cleanup, on disk when this returns.
pub fn begin(host: &Host, record: &Record) -> Result<()> {
    let folder = folder(host);
    // They hold what Calico's tokens open.
    let all = [host.path("/var/lib/nodectl"), host.path("/var/lib/nodectl/backup"), folder.clone()];
    all.iter().try_for_each(|folder| files::create_directory(folder, 0o700))?;
    let bytes = serde_json::to_vec(record).context("could not encode the record of the cleanup")?;
    files::write_atomic(&folder.join(format!("{}{OPEN}", record.id)), &bytes, 0o600)
}

/// The cleanup of this CNI that has not ended, if there is one; the latest of several.
pub fn unfinished(host: &Host, cni: Cni) -> Result<Option<Record>> {
    let folder = folder(host);
    let mut names = files::list(&folder)?;
    names.retain(|name| name.ends_with(OPEN));
    for name in names.iter().rev() {
        let path = folder.join(name);
        let bytes = files::read_optional(&path)?.unwrap_or_default();
        let damaged = || {
            format!(
                "{} is damaged, so what that cleanup knew is lost. To fix it: move the file away and run the cleanup again; where \
                 the node does not tell flannel's or Calico's network any more, give --network, --subnet and --network-name",
                path.display()
            )
        };
        let value: serde_json::Value = serde_json::from_slice(&bytes).with_context(damaged)?;
        if value["format"] != RECORD_FORMAT {
            bail!(
                "{} has format {}, this nodectl reads format {RECORD_FORMAT}. To fix it: use the nodectl that began it, or move the file away",
                path.display(),
                value["format"]
            );
        }
        let record: Record = serde_json::from_value(value).with_context(damaged)?;
        if record.cni == cni {
            return Ok(Some(record));
        }
    }
    Ok(None)
}

/// Every open cleanup of this CNI has ended.
pub fn end(host: &Host, cni: Cni) -> Result<()> {
    while let Some(record) = unfinished(host, cni)? {
        let folder = folder(host);
        files::rename(&folder.join(format!("{}{OPEN}", record.id)), &folder.join(format!("{}.json", record.id)))?;
    }
    Ok(())
}

/// Where a cleanup's files wait.
pub fn backup(host: &Host, id: &str) -> PathBuf {
    host.path("/var/lib/nodectl/backup").join(id).join("files")
}

fn folder(host: &Host) -> PathBuf {
    host.path("/var/lib/nodectl/cleanups")
}
