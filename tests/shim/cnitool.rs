//! The newest libcni, by its own cnitool, with the real plugins behind spies: what it hands to them natively and through the shim,
//! for every verb that it has. Debian has no package of it: where CNITOOL does not name one, these tests say so and pass over.
//!
//! `GOBIN=DIR go install github.com/containernetworking/cni/cnitool@v1.3.0`, then
//! `CNITOOL=DIR/cnitool cargo test -p cni-shim --test shim cnitool` (`@v1.1.2`: the libcni of containerd 1.6 and 1.7).

use crate::common::{ARGS, Logged, World};
use crate::real::{bridge_list, capability_args, inside, leftovers, long_flannel_list, on_a_node, run, seen};
use cni_spec::conflist::List;
use cni_store::Paths;
use cni_store::backends::{Backends, shim_conflist, union_of_capabilities};
use cni_store::state::{Backend, State};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

struct Tool {
    conflists: PathBuf,
    network: String,
    cni_path: PathBuf,
}

impl Tool {
    fn run(&self, verb: &str, netns: &str) -> Result<Value, String> {
        let mut command = Command::new(std::env::var_os("CNITOOL").unwrap());
        command.args([verb, &self.network, &format!("/run/netns/{netns}")]).env("NETCONFPATH", &self.conflists);
        command.env("CNI_PATH", &self.cni_path).env("CNI_ARGS", ARGS).env("CAP_ARGS", capability_args().to_string());
        let output = command.output().unwrap();
        if output.status.success() {
            return Ok(serde_json::from_slice(&output.stdout).unwrap_or_default());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout))
    }
}

/// Whether there is a cnitool.
fn is_at_hand() -> bool {
    let named = std::env::var_os("CNITOOL").is_some();
    if !named {
        let why = "passed over: CNITOOL names no cnitool. To have one: see the top of tests/shim/cnitool.rs";
        let _ = writeln!(std::io::stderr(), "{why}");
    }
    named
}

/// cnitool with a list by itself, and with the shim in front of it.
fn tools(world: &World, backend: Backend, list: &Value) -> (Tool, Tool) {
    let cni_path = world.path("spy");
    let _ = symlink(env!("CARGO_BIN_EXE_cni-shim"), cni_path.join("cni-shim"));
    let network = list["name"].as_str().unwrap().to_owned();
    for old in fs::read_dir(world.path("root/etc/cni/net.d")).unwrap().map(|entry| entry.unwrap().path()) {
        let _ = fs::remove_file(old);
    }
    world.conflist(backend, list);
    let path = |backend| world.conflist_path(backend);
    let backends = Backends { flannel: path(Backend::Flannel), calico: path(Backend::Calico), ..Backends::default() };
    let capabilities = union_of_capabilities([&List::parse(list.to_string().as_bytes()).unwrap()]);
    let shim = shim_conflist(&network, &Paths::default(), &backends, &capabilities, backend);
    world.write("net.d/00-cni-shim.conflist", &shim.to_string());
    State::routed(backend).store(&Paths::default()).unwrap();
    let native =
        Tool { conflists: world.path("root/etc/cni/net.d"), network: network.clone(), cni_path: cni_path.clone() };
    (native, Tool { conflists: world.path("net.d"), network, cni_path })
}

fn caches() -> Vec<String> {
    let folders = ["results", "flannel"].map(|name| format!("/var/lib/cni/{name}"));
    let ours = ["attachments", "pending"].map(|name| format!("/var/lib/cni-shim/{name}"));
    let files = folders.iter().chain(&ours).filter_map(|dir| fs::read_dir(dir).ok()).flatten();
    files.map(|file| file.unwrap().path().display().to_string()).collect()
}

/// ADD, CHECK and DEL: what the plugins were given, what the pod's network was like, what was left.
type Life = (Vec<Logged>, (String, String), BTreeSet<String>);

fn life(world: &World, tool: &Tool) -> (Value, Life) {
    run(&["ip", "netns", "add", "pod"]);
    let _ = fs::remove_dir_all("/var/lib/cni/networks");
    let result = tool.run("add", "pod").unwrap();
    let network = inside("pod");
    // portmap 1.1.1 looks for IPv6 chains of a pod without IPv6; what it says natively, it says through the shim.
    let _ = tool.run("check", "pod");
    tool.run("del", "pod").unwrap();
    run(&["ip", "netns", "delete", "pod"]);
    let _ = fs::remove_dir_all("/var/lib/cni/networks");
    (result, (seen(world), network, leftovers()))
}

#[test]
fn the_newest_libcni_hands_on_the_same_through_the_shim() {
    if !is_at_hand() {
        return;
    }
    on_a_node(|world| {
        for (backend, list) in [(Backend::Flannel, long_flannel_list()), (Backend::Calico, bridge_list())] {
            let (native, shim) = tools(world, backend, &list);
            life(world, &native);
            let (expected, natively) = life(world, &native);
            let (result, through) = life(world, &shim);
            // Before 1.2, libcni knows neither cniVersions nor STATUS and GC.
            let newer = result["cniVersion"] == "1.1.0";
            assert!(newer || result["cniVersion"] == "1.0.0", "{result}");
            let back = cni_spec::convert::result(result.clone(), expected["cniVersion"].as_str().unwrap()).unwrap();
            assert_eq!((&back["ips"], &back["routes"]), (&expected["ips"], &expected["routes"]));
            for (through, natively) in through.0.iter().zip(&natively.0) {
                assert_eq!(through, natively);
            }
            assert_eq!(through, natively);
            assert_eq!(caches(), [""; 0]);
            if newer {
                run(&["ip", "netns", "add", "pod"]);
                // A node with flannel's subnet file is ready; Calico's files are those of this world.
                assert_eq!(shim.run("status", "pod").err(), None);
                shim.run("add", "pod").unwrap();
                shim.run("add", "pod").unwrap_err();
                // cnitool's GC names nothing valid, so libcni sends a DEL for each cached attachment.
                shim.run("gc", "pod").unwrap();
                run(&["ip", "netns", "delete", "pod"]);
                let _ = fs::remove_dir_all("/var/lib/cni/networks");
                assert_eq!((leftovers(), caches()), (through.2, Vec::new()));
                seen(world);
            }
        }
    });
}

#[test]
fn row_31_the_newest_libcni_sends_older_pods_to_the_shim() {
    if !is_at_hand() {
        return;
    }
    on_a_node(|world| {
        let (native, shim) = tools(world, Backend::Flannel, &long_flannel_list());
        life(world, &native);
        let before = leftovers();
        run(&["ip", "netns", "add", "pod"]);
        native.run("add", "pod").unwrap();
        State::routed(Backend::Calico).store(&Paths::default()).unwrap();
        shim.run("del", "pod").unwrap();
        shim.run("del", "pod").unwrap();
        run(&["ip", "netns", "delete", "pod"]);
        let _ = fs::remove_dir_all("/var/lib/cni/networks");
        assert_eq!((leftovers(), caches()), (before, Vec::new()));
    });
}
