//! What the shim does not do on its way through an ADD and a DEL; and that there is not more of it than can be read at once.

use crate::common::{World, calico_list, flannel_list};
use cni_spec::conflist::List;
use cni_store::Paths;
use cni_store::backends::{Backends, shim_conflist, union_of_capabilities};
use cni_store::state::Backend;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// fsync costs an ADD 11 ms on an ordinary disk; and no API server, resolver or socket may come between a pod and its network.
#[test]
fn an_add_and_a_del_sync_nothing_and_open_no_socket() {
    let world = World::new();
    world.route(Backend::Flannel);
    for verb in ["ADD", "CHECK", "DEL"] {
        let call = world.call(verb, "c1");
        let trace = world.path("trace");
        let mut command = Command::new("strace");
        command.args([
            "-e",
            "trace=fsync,fdatasync,sync,syncfs,sync_file_range,socket,connect,clone,clone3,vfork,execve",
            "-o",
        ]);
        command.arg(&trace).arg(env!("CARGO_BIN_EXE_cni-shim")).envs(&call.env);
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|cause| panic!("strace: {cause}. To fix it: run tests/provision"));
        child.stdin.take().unwrap().write_all(Value::Object(call.config.clone()).to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let trace = std::fs::read_to_string(trace).unwrap();
        let calls: Vec<_> = trace.lines().filter(|line| !line.starts_with("---") && !line.starts_with("+++")).collect();
        let starts = calls.iter().filter(|call| ["clone", "vfork"].iter().any(|name| call.starts_with(name))).count();
        // Itself, and one start for each delegate; flannel's list is of 0.3.1, which has no CHECK.
        assert_eq!(starts, if verb == "CHECK" { 0 } else { 2 }, "{verb}: {trace}");
        assert_eq!(calls.len(), 1 + starts, "{verb}: {trace}");
    }
    world.assert_clean();
}

/// Old runtimes read `cniVersion`, newer ones choose from `cniVersions`; both are given every capability argument that either
/// backend may want, also while the other backend's conflist is not there.
#[test]
fn the_installed_conflist_serves_every_runtime_and_both_backends() {
    let mut calico = calico_list();
    calico["plugins"][0]["capabilities"] = json!({"vendor.example/x": true, "unwanted": false});
    let lists = [flannel_list(), calico].map(|list| List::parse(list.to_string().as_bytes()).unwrap());
    let all = union_of_capabilities(&lists);
    for name in ["portMappings", "bandwidth", "ipRanges", "io.kubernetes.cri.pod-annotations", "vendor.example/x"] {
        assert_eq!(all.get(name), Some(&json!(true)), "{name}");
    }
    assert!(!all.contains_key("unwanted"));
    let list = shim_conflist("cbr0", &Paths::under("/"), &Backends::default(), &all, Backend::Flannel);
    assert_eq!((&list["name"], &list["cniVersion"]), (&json!("cbr0"), &json!("1.0.0")));
    let parsed = List::parse(list.to_string().as_bytes()).unwrap();
    assert_eq!((parsed.cni_version.as_str(), parsed.disable_check, parsed.disable_gc), ("1.1.0", false, false));
    assert!(parsed.runs("cni-shim") && list["loadOnlyInlinedPlugins"] == true);
    // What no plugin of the chosen list declares is neither handed on nor recorded.
    let world = World::new();
    let given =
        json!({"portMappings": [{"HostPort": 1}], "io.kubernetes.cri.pod-annotations": {"big": "x".repeat(100_000)}});
    world.call("ADD", "c1").with("runtimeConfig", given.clone()).go().succeeded();
    let record = world.record("c1").unwrap();
    assert_eq!(Value::Object(record.del[0].runtime_config.clone()), json!({"portMappings": given["portMappings"]}));
}

/// What stands between every pod and its network is read as a whole by whoever must trust it. What it does as any runtime does, and
/// what it shares with nodectl, are libraries of their own.
#[test]
fn the_shim_is_read_in_one_sitting() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.iter().all(|file| file.extension().is_some_and(|kind| kind == "rs")), "{files:?}");
    let code = |text: String| {
        let lines = text.lines().map(str::trim).take_while(|line| *line != "#[cfg(test)]");
        lines.filter(|line| !line.is_empty() && !line.starts_with("//")).count()
    };
    let lines: usize = files.iter().map(|file| code(std::fs::read_to_string(file).unwrap())).sum();
    assert!((100..1000).contains(&lines), "{lines} lines of code");
}

/// It is started for every pod, as root, between the runtime and the network: what it is made of is chosen one by one. No async
/// runtime, no TLS, no regular expressions, no command line.
#[test]
fn it_is_made_of_few_crates() {
    let ours = ["cni-shim", "cni-spec", "cni-store"];
    let theirs = "base64 bitflags block-buffer cfg-if cpufeatures crypto-common digest dlmalloc equivalent foldhash \
        generic-array hashbrown indexmap itoa libc memchr memoffset nix proc-macro2 quote serde serde_core \
        serde_derive serde_json sha1 syn typenum unicode-ident zmij";
    let made_of = |package: &str| -> BTreeSet<String> {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let tree = ["tree", "-p", package, "-e", "normal", "--offline", "--locked", "--prefix", "none"];
        let output = Command::new(cargo).args(tree).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let names = String::from_utf8(output.stdout).unwrap();
        names.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
    };
    let shim = made_of("cni-shim");
    let more: Vec<_> =
        shim.iter().filter(|name| !theirs.split(' ').chain(ours).any(|known| known == name.as_str())).collect();
    assert!(more.is_empty() && ours.iter().all(|own| shim.contains(*own)), "{more:?}");
    // The look finds what it looks for where it is.
    assert!(["tokio", "rustls", "clap"].iter().all(|heavy| made_of("nodectl").contains(*heavy)));
}
