//! `nodectl bundle`: what somebody elsewhere needs to understand this node, gathered, without secrets.

mod redact;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, anyhow};
use serde::Serialize;

pub use self::redact::redact;
use crate::clock;
use crate::facts::Facts;
use crate::host::{Host, files, run::Run};

/// Files larger than this are left out and named, in bytes.
const LARGEST: u64 = 8 << 20;
/// How many files of one folder are taken: the last by name, which for runs are the latest.
const MOST: usize = 50;
/// Folders whose files are taken. Not nodectl's backups: they hold plugins, and kubeconfigs as they were.
const FOLDERS: [&str; 10] = [
    "/etc/nodectl/config.d",
    "/var/lib/nodectl/journal",
    "/var/lib/nodectl/snapshots",
    "/var/lib/nodectl/receipts",
    "/var/lib/nodectl/reports",
    "/var/lib/nodectl/cleanups",
    "/var/lib/cni-shim",
    "/var/lib/cni-shim/attachments",
    "/var/lib/cni-shim/pending",
    "/var/lib/cni-shim/holds",
];
/// Single files that are taken.
const FILES: [&str; 5] = [
    "/etc/os-release",
    "/etc/nodectl/config.toml",
    "/var/lib/nodectl/open",
    "/run/flannel/subnet.env",
    "/var/lib/calico/nodename",
];
/// Whose words in the system's journal are taken, and how many of the last lines.
const UNITS: [&str; 8] = [
    "cni-migrate.service",
    "nodectl-boot.service",
    "nodectl-settle.service",
    "nodectl-deadman.service",
    "nodectl-reap.service",
    "kubelet.service",
    "containerd.service",
    "crio.service",
];
const LINES: &str = "3000";

/// What an archive holds.
#[derive(Debug, Default, Serialize)]
pub struct Bundle {
    /// Its files by name, without secrets.
    #[serde(skip)]
    pub entries: BTreeMap<String, String>,
    /// What could not be had, and why.
    pub missing: BTreeMap<String, String>,
    /// How many secrets were taken out.
    pub redacted: usize,
}

impl Bundle {
    /// All but the commands' words: the facts, the node's own files, the system's journal.
    pub fn gather(host: &Host, facts: &Facts) -> Bundle {
        let mut bundle = Bundle { missing: facts.unobserved.clone(), ..Bundle::default() };
        bundle.document("facts.json", facts);
        FILES.iter().for_each(|path| bundle.file(host, path));
        for folder in FOLDERS {
            bundle.folder(host, folder, |_| true);
        }
        // Configurations only: a CNI's kubeconfig lies beside them.
        let is_conf = |name: &str| [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end));
        bundle.folder(host, &facts.files.conf_dir, is_conf);
        if host.root() == Path::new("/") {
            bundle.log();
        }
        bundle
    }

    /// Adds a text under this name.
    pub fn text(&mut self, name: &str, text: &str) {
        let (text, redacted) = redact(text);
        self.redacted += redacted;
        self.entries.insert(name.to_owned(), text);
    }

    /// Adds a document under this name.
    pub fn document(&mut self, name: &str, document: &impl Serialize) {
        match serde_json::to_string_pretty(document) {
            Ok(text) => self.text(name, &text),
            Err(error) => drop(self.missing.insert(name.to_owned(), error.to_string())),
        }
    }

    /// What could not be had, a line each; empty where nothing is missing.
    pub fn missing_lines(&self) -> String {
        self.missing.iter().map(|(what, why)| format!("  {what}: {why}\n")).collect()
    }

    /// The first page, when all else is in.
    pub fn finish(&mut self, node: &str) {
        let missing = self.missing_lines();
        let names: String = self.entries.keys().map(|name| format!("  {name}\n")).collect();
        let page = format!(
            "What nodectl {} saw on {node} at {}.\n\n{} secrets (keys, tokens, passwords) were taken out. Names and addresses of \
             nodes and pods are still in it,\nand so is any secret that looks like nothing known: read it before you pass it on.\n\n\
             Files:\n{names}\nNot to be had:\n{}",
            env!("CARGO_PKG_VERSION"),
            clock::now(),
            self.redacted,
            if missing.is_empty() { "  nothing is missing\n" } else { &missing }
        );
        self.entries.insert("README.txt".to_owned(), page);
    }

    fn folder(&mut self, host: &Host, folder: &str, wanted: impl Fn(&str) -> bool) {
        match files::list(&host.path(folder)) {
            Ok(names) => {
                let names: Vec<String> = names.into_iter().filter(|name| wanted(name)).collect();
                let late = names.len().saturating_sub(MOST);
                if late > 0 {
                    self.missing.insert(folder.to_owned(), format!("the first {late} of its {} files", names.len()));
                }
                names
                    .iter()
                    .skip(late)
                    .for_each(|name| self.file(host, &format!("{}/{name}", folder.trim_end_matches('/'))));
            }
            Err(error) => drop(self.missing.insert(folder.to_owned(), format!("{error:#}"))),
        }
    }

    fn file(&mut self, host: &Host, path: &str) {
        match read(&host.path(path)) {
            Ok(Some(text)) => self.text(&format!("files{path}"), &text),
            Ok(None) => {}
            Err(error) => drop(self.missing.insert(path.to_owned(), format!("{error:#}"))),
        }
    }

    fn log(&mut self) {
        let units = UNITS.iter().flat_map(|unit| ["-u", unit]);
        let args = ["--no-pager", "-q", "-o", "short-iso-precise", "-n", LINES].into_iter().chain(units);
        let why = match Run::new("journalctl").args(args).output() {
            Ok(output) if !output.status.success() => format!("journalctl {}", output.failure()),
            Ok(output) if output.stdout.is_empty() => "the system's journal has nothing of these units".to_owned(),
            Ok(output) => return self.text("journal.txt", &String::from_utf8_lossy(&output.stdout)),
            Err(error) => format!("{error:#}"),
        };
        self.missing.insert("journal.txt".to_owned(), why);
    }
}

/// A regular file's text; `None` where there is none. Anything else might never end.
fn read(path: &Path) -> Result<Option<String>> {
    match files::size(path)? {
        None => Ok(None),
        Some(size) if size > LARGEST => Err(anyhow!("it has {size} bytes, more than are taken")),
        Some(_) => Ok(files::read_optional(path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())),
    }
}
