//! A running probe process, as its starter sees it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

use super::probe::Report;
use crate::node::{Node, Running};

/// The latest report of each target.
type Latest = Arc<Mutex<BTreeMap<String, Report>>>;

/// A probe process in a pod's or a node's network.
pub struct Prober {
    process: Running,
    latest: Latest,
    reader: Option<JoinHandle<()>>,
}

impl Prober {
    /// Starts it; `netns` is a path inside the node, none for the node's own network.
    pub fn start(node: &dyn Node, netns: Option<&str>, rate: u32) -> Result<Prober> {
        let (lab, rate) = ("/usr/local/bin/nodectl-lab", rate.to_string());
        let argv: Vec<&str> = match netns {
            Some(netns) => vec![lab, "enter", "--netns", netns, "--", lab, "probe", &rate],
            None => vec![lab, "probe", &rate],
        };
        let mut process = node.spawn(&argv)?;
        let output = process.child().stdout.take().context("the probe has no output")?;
        let latest = Latest::default();
        let kept = Arc::clone(&latest);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(report) = serde_json::from_str::<Report>(&line) {
                    kept.lock().unwrap_or_else(PoisonError::into_inner).insert(report.key.clone(), report);
                }
            }
        });
        Ok(Prober { process, latest, reader: Some(reader) })
    }

    /// Sets a target.
    pub fn set(&mut self, key: &str, address: SocketAddr) -> Result<()> {
        let pipe = self.process.child().stdin.as_mut().context("the probe has no input")?;
        writeln!(pipe, "set {key} {address}").and_then(|()| pipe.flush()).context("the probe has ended")
    }

    /// Sends no more to a target.
    pub fn forget(&mut self, key: &str) -> Result<()> {
        let pipe = self.process.child().stdin.as_mut().context("the probe has no input")?;
        writeln!(pipe, "drop {key}").and_then(|()| pipe.flush()).context("the probe has ended")
    }

    /// The latest report of a target.
    pub fn report(&self, key: &str) -> Option<Report> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// True once the process has ended: its node was switched off.
    pub fn has_ended(&mut self) -> bool {
        self.process.child().try_wait().is_ok_and(|status| status.is_some())
    }

    /// Tells the process to end; it lingers for late answers.
    pub fn stop(&mut self) {
        drop(self.process.child().stdin.take());
    }

    /// Stops sending, waits for late answers; answers the last report of each target.
    pub fn finish(mut self) -> BTreeMap<String, Report> {
        self.stop();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.clone()
    }
}
