//! Running one plugin, and what libcni makes of its answers.

use std::path::PathBuf;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command;

/// What a plugin is called with, besides its configuration.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    /// ADD, DEL, CHECK or STATUS.
    pub verb: &'a str,
    /// The sandbox.
    pub container: &'a str,
    /// Path of the network namespace; empty when it is gone.
    pub netns: &'a str,
    /// The interface's name in the namespace.
    pub interface: &'a str,
    /// CNI_ARGS.
    pub arguments: &'a str,
    /// Folders with plugins.
    pub path: &'a [PathBuf],
}

/// Runs a plugin with a configuration; answers its standard output, or its error as text.
pub fn run(call: &Call, plugin: &str, configuration: &Value) -> Result<String> {
    if plugin.is_empty() || plugin.contains('/') {
        bail!("invalid plugin name: {plugin}");
    }
    let found = call.path.iter().map(|folder| folder.join(plugin)).find(|path| path.is_file());
    let Some(file) = found else {
        let folders: Vec<String> = call.path.iter().map(|folder| folder.display().to_string()).collect();
        bail!("failed to find plugin \"{plugin}\" in path [{}]", folders.join(" "));
    };
    let folders = std::env::join_paths(call.path).context("CNI_PATH cannot be made")?;
    for attempt in 0.. {
        let mut program = Command::new(&file);
        program
            .env("CNI_COMMAND", call.verb)
            .env("CNI_CONTAINERID", call.container)
            .env("CNI_NETNS", call.netns)
            .env("CNI_IFNAME", call.interface)
            .env("CNI_ARGS", call.arguments)
            .env("CNI_PATH", &folders);
        match command::output(&mut program, &configuration.to_string()) {
            Ok(result) if result.ok() => return Ok(result.stdout),
            Ok(result) => bail!(failure(&result)),
            // A binary that is being written: libcni tries again, once a second.
            Err(error) if attempt < 5 && is_busy(&error) => sleep(Duration::from_secs(1)),
            Err(error) => return Err(error),
        }
    }
    bail!("unreachable: the loop above ends by itself")
}

/// libcni's sentence for a plugin that failed.
fn failure(result: &command::Output) -> String {
    let answer = result.stdout.trim();
    if answer.is_empty() {
        let words = result.stderr.trim();
        return if words.is_empty() {
            format!("netplugin failed with no error message: exit status {}", result.code)
        } else {
            format!("netplugin failed: {words:?}")
        };
    }
    let Ok(error) = serde_json::from_str::<Value>(answer) else {
        return format!("netplugin failed but error parsing its diagnostic message {answer:?}");
    };
    let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    match text("details") {
        details if details.is_empty() => text("msg"),
        details => format!("{}; {details}", text("msg")),
    }
}

/// True for ETXTBSY.
fn is_busy(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::ExecutableFileBusy)
}
