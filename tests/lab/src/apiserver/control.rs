//! The control socket: one command a line, one answer a line.
//!
//! `slow MS`, `refuse`, `reset`, `lose`, `500`, `dead`, each with an optional `/prefix`, `method=NAME`, `times=N`;
//! `ok` ends all faults, `show` lists them, `compact` forgets the watch history, `gc` runs Calico's IPAM garbage collector.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;

use super::api::Api;
use super::faults::{Fault, Faults};
use crate::controllers::Controllers;

/// What the commands work on.
#[derive(Clone)]
pub struct Control {
    /// The faults.
    pub faults: Faults,
    /// The stand-in's objects.
    pub api: Option<Arc<Api>>,
    /// The controllers, if they run.
    pub controllers: Option<Arc<Controllers>>,
}

impl Control {
    /// Serves commands on a socket, in a thread of its own.
    pub fn listen(self, path: &Path) -> anyhow::Result<()> {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))?;
        std::thread::Builder::new().name("control".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let control = self.clone();
                std::thread::spawn(move || control.serve(&stream));
            }
        })?;
        Ok(())
    }

    /// Runs one command.
    pub fn run(&self, command: &str) -> String {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words.as_slice() {
            ["ok"] => self.faults.clear(),
            ["show"] => return format!("{:?}", self.faults.current()),
            ["compact"] => match &self.api {
                Some(api) => api.store.transaction(super::store::Inner::compact),
                None => return "error: a real kube-apiserver forgets its history when it wants to".into(),
            },
            ["gc"] => match &self.controllers {
                Some(controllers) => controllers.collect_garbage(),
                None => return "error: no controllers run here".into(),
            },
            words => match Fault::parse(words) {
                Ok(fault) if self.api.is_none() && !fault.is_whole() => {
                    return "error: in front of a real kube-apiserver only refuse, reset and dead can be had, for all requests".into();
                }
                Ok(fault) => self.faults.add(fault),
                Err(error) => return format!("error: {error}"),
            },
        }
        "ok".into()
    }

    fn serve(&self, stream: &UnixStream) {
        let mut answers = stream;
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let answer = self.run(&line);
            if writeln!(answers, "{answer}").is_err() {
                return;
            }
        }
    }
}

/// Sends one command to a server's control socket.
pub fn command(path: &Path, command: &str) -> anyhow::Result<String> {
    let mut stream =
        UnixStream::connect(path).with_context(|| format!("reaching the control socket {}", path.display()))?;
    writeln!(stream, "{command}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    let answer = answer.trim_end().to_string();
    anyhow::ensure!(!answer.starts_with("error"), "{command}: {answer}");
    Ok(answer)
}
