//! `lab-runc`: what containerd starts in runc's place. It changes the container's description, then becomes runc.
//!
//! Two changes. Resource limits go: on many machines the memory, cpu and pids controllers belong to the older cgroup hierarchies, and runc fails
//! on the files that cgroup2 then lacks. And a container of one of the lab's images sees the node's own /usr.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::images::MARK;

/// The packaged runc.
const RUNC: &str = "/usr/sbin/runc";
/// What the lab's images lack and the node has: programs and libraries, the links that choose between iptables' two back ends, the
/// protocols' names, and the credentials of the stand-ins, which every node has from the start.
const SHARED: [&str; 4] = ["/usr", "/etc/alternatives", "/etc/protocols", "/etc/kubernetes/lab"];

/// The program `lab-runc ARGS`, called as containerd calls runc.
pub fn main(arguments: &[String]) -> Result<ExitCode> {
    let call = Call::parse(arguments);
    if call.command == Some("update") {
        // There are no limits, hence nothing to change.
        return Ok(ExitCode::SUCCESS);
    }
    if matches!(call.command, Some("create" | "run")) {
        let shared: Vec<&str> = SHARED.into_iter().filter(|path| Path::new(path).exists()).collect();
        change(&call.bundle.join("config.json"), &shared)?;
    }
    let argv: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    Err(Command::new(RUNC).args(argv).exec()).with_context(|| format!("{RUNC} could not be started"))
}

/// What matters of a call of runc.
#[derive(Debug, PartialEq)]
struct Call<'a> {
    command: Option<&'a str>,
    bundle: PathBuf,
}

impl<'a> Call<'a> {
    /// Finds the command behind the global flags, and the bundle.
    fn parse(arguments: &'a [String]) -> Call<'a> {
        let known = ["create", "run", "update", "start", "state", "kill", "delete", "exec", "ps", "events"];
        let command = arguments.iter().map(String::as_str).find(|word| known.contains(word));
        let mut bundle = PathBuf::from(".");
        for (place, word) in arguments.iter().enumerate() {
            if let Some(path) = word.strip_prefix("--bundle=") {
                bundle = path.into();
            } else if word == "--bundle" || word == "-b" {
                bundle = arguments.get(place + 1).map(PathBuf::from).unwrap_or(bundle);
            }
        }
        Call { command, bundle }
    }
}

/// Changes a bundle's description in place.
fn change(path: &Path, shared: &[&str]) -> Result<()> {
    let text = fs::read(path).with_context(|| format!("{} could not be read", path.display()))?;
    let mut spec: Value = serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))?;
    rewrite(&mut spec, shared);
    fs::write(path, serde_json::to_vec(&spec)?).with_context(|| format!("{} could not be written", path.display()))
}

/// Takes limits away; gives the lab's own images what they share with the node.
fn rewrite(spec: &mut Value, shared: &[&str]) {
    if let Some(resources) = spec.pointer_mut("/linux/resources").and_then(Value::as_object_mut) {
        // Rules for devices are no limits, and a privileged container could not open its /dev/null without them.
        resources.retain(|name, _| name == "devices");
    }
    if let Some(process) = spec.get_mut("process").and_then(Value::as_object_mut) {
        process.remove("oomScoreAdj");
    }
    let environment = spec.pointer("/process/env").and_then(Value::as_array);
    if !environment.is_some_and(|all| all.iter().any(|variable| variable == MARK)) {
        return;
    }
    if let Some(mounts) = spec.get_mut("mounts").and_then(Value::as_array_mut) {
        // First, so that a volume of the pod may lie on top of them.
        let own = shared
            .iter()
            .map(|path| json!({"destination": path, "source": path, "type": "bind", "options": ["rbind", "ro"]}));
        mounts.splice(0..0, own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_and_the_bundle_are_found_behind_flags() {
        let argv = [
            "--root",
            "/run/containerd/runc/k8s.io",
            "--log",
            "/x",
            "create",
            "--bundle",
            "/b",
            "--pid-file",
            "/p",
            "id",
        ];
        let argv = argv.map(str::to_owned);
        assert_eq!(Call::parse(&argv), Call { command: Some("create"), bundle: "/b".into() });
        assert_eq!(Call::parse(&["delete".to_owned()]).command, Some("delete"));
    }

    #[test]
    fn limits_go_and_only_the_labs_images_get_the_nodes_programs() {
        let spec = |env: &str| json!({"process": {"env": ["A=1", env], "oomScoreAdj": -998}, "linux": {"resources": {"cpu": {}, "devices": []}, "x": 1}, "mounts": [{"destination": "/proc"}]});
        let (mut own, mut foreign) = (spec(MARK), spec("B=2"));
        rewrite(&mut own, &["/usr", "/etc/alternatives"]);
        rewrite(&mut foreign, &["/usr"]);
        assert_eq!(
            foreign,
            json!({"process": {"env": ["A=1", "B=2"]}, "linux": {"resources": {"devices": []}, "x": 1}, "mounts": [{"destination": "/proc"}]})
        );
        assert_eq!(own.pointer("/mounts/0/destination"), Some(&json!("/usr")));
        assert_eq!(own.pointer("/mounts/2/destination"), Some(&json!("/proc")));
    }
}
