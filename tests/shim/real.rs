//! Debian's bridge, ptp, host-local, portmap, bandwidth and tuning plugins, natively and through the shim, in network and
//! mount namespaces of the test thread's own.

use crate::common::{World, wait_for};
use cni_shim::state::Backend;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

pub const PLUGINS: &str = "/usr/lib/cni";

pub fn run(argv: &[&str]) -> String {
    let output = Command::new(argv[0]).args(&argv[1..]).output().unwrap_or_else(|cause| panic!("{argv:?}: {cause}"));
    assert!(output.status.success(), "{argv:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A node of its own: loopback, an uplink to nowhere, private /run and /var/lib.
pub fn node() {
    assert!(Path::new(PLUGINS).join("bridge").exists(), "install containernetworking-plugins");
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    for dir in ["/run", "/var/lib"] {
        mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    }
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>).unwrap();
    run(&["ip", "link", "set", "lo", "up"]);
    run(&["ip", "link", "add", "up0", "type", "bridge"]);
    run(&["ip", "address", "add", "192.0.2.1/24", "dev", "up0"]);
    run(&["ip", "link", "set", "up0", "up"]);
    run(&["ip", "route", "add", "default", "via", "192.0.2.254"]);
}

fn bridge_list() -> Value {
    json!({"name": "cbr0", "cniVersion": "0.3.1", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "isDefaultGateway": true, "hairpinMode": true,
         "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.1.0/24"}]], "routes": [{"dst": "10.244.0.0/16"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}}]})
}

fn ptp_list() -> Value {
    json!({"name": "k8s-pod-network", "cniVersion": "1.0.0", "plugins": [
        {"type": "ptp", "ipMasq": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.245.1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "tuning", "mtu": 1400},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}]})
}

pub fn runtime_config() -> Value {
    json!({"portMappings": [{"HostPort": 18080, "ContainerPort": 80, "Protocol": "tcp"}],
        "bandwidth": {"ingressRate": 1_000_000, "ingressBurst": 1_000_000, "egressRate": 1_000_000, "egressBurst": 1_000_000}})
}

fn shim(world: &World, verb: &str, id: &str) -> crate::common::Answer {
    let mut call = world.call(verb, id).env("CNI_PATH", PLUGINS).with("runtimeConfig", runtime_config());
    call.config.insert("root".into(), "/".into());
    call.env.insert("CNI_NETNS".into(), format!("/run/netns/{id}"));
    for (backend, path) in [("flannel", Backend::Flannel), ("calico", Backend::Calico)] {
        call.config["backends"][backend] = world.conflist_path(path).to_str().unwrap().into();
    }
    call.go()
}

fn native(list: &Value, verb: &str, id: &str, cached: Option<&Value>) -> Result<Value, Value> {
    let plugins = list["plugins"].as_array().unwrap();
    let mut previous = cached.cloned().unwrap_or_default();
    let order: Vec<_> = if verb == "DEL" { plugins.iter().rev().collect() } else { plugins.iter().collect() };
    for plugin in order {
        let mut config = plugin.clone();
        config["name"] = list["name"].clone();
        config["cniVersion"] = list["cniVersion"].clone();
        config["runtimeConfig"] = runtime_config();
        if previous.is_object() {
            config["prevResult"] = previous.clone();
        }
        let mut command = Command::new(Path::new(PLUGINS).join(plugin["type"].as_str().unwrap()));
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", id).env("CNI_NETNS", format!("/run/netns/{id}"));
        command.env("CNI_IFNAME", "eth0").env("CNI_PATH", PLUGINS).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let document = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if !output.status.success() {
            return Err(document);
        }
        if verb == "ADD" {
            previous = document;
        }
    }
    Ok(previous)
}

/// What networking has left on the node: links, chains and rules, qdiscs, reserved addresses.
pub fn leftovers() -> BTreeSet<String> {
    let mut left = BTreeSet::new();
    left.extend(
        run(&["ip", "-br", "link"])
            .lines()
            .filter_map(|line| line.split(['@', ' ']).next())
            .map(|link| format!("link {link}")),
    );
    left.extend(
        run(&["iptables-save"])
            .lines()
            .filter(|line| line.starts_with("-A") || line.contains("CNI-DN"))
            .map(str::to_owned),
    );
    for network in fs::read_dir("/var/lib/cni/networks").into_iter().flatten().flatten() {
        let files = fs::read_dir(network.path()).unwrap().flatten().map(|file| file.path().display().to_string());
        left.extend(files.filter(|file| !file.contains("last_reserved") && !file.ends_with("lock")));
    }
    left
}

/// What a pod's own network looks like.
pub fn inside(id: &str) -> (String, String) {
    let addresses = run(&["ip", "-n", id, "-o", "address", "show", "dev", "eth0", "scope", "global"]);
    (addresses, run(&["ip", "-n", id, "route"]))
}

fn compare(world: &World, backend: Backend, list: &Value) {
    world.conflist(backend, list);
    world.route(backend);
    // Once natively first: bridges and top-level chains stay by design.
    for id in ["warm", "natively", "shimmed"] {
        run(&["ip", "netns", "add", id]);
    }
    native(list, "ADD", "warm", None).unwrap();
    native(list, "DEL", "warm", None).unwrap();
    let before = leftovers();
    fs::remove_dir_all("/var/lib/cni/networks").unwrap();
    native(list, "ADD", "natively", None).unwrap();
    let expected = inside("natively");
    let attached = leftovers().len();
    native(list, "DEL", "natively", None).unwrap();
    assert_eq!(leftovers(), before);
    fs::remove_dir_all("/var/lib/cni/networks").unwrap();

    let result = shim(world, "ADD", "shimmed").succeeded().json();
    assert_eq!(result["cniVersion"], "1.1.0");
    let eth0 =
        result["interfaces"].as_array().unwrap().iter().position(|interface| interface["name"] == "eth0").unwrap();
    assert_eq!(result["ips"][0]["interface"], eth0, "{result}");
    assert_eq!(inside("shimmed"), expected);
    assert_eq!(leftovers().len(), attached);
    let address = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap();
    let gateway = address.rsplit_once('.').unwrap().0.to_owned() + ".1";
    run(&["ip", "netns", "exec", "shimmed", "ping", "-c1", "-W2", &gateway]);
    if backend == Backend::Calico {
        // portmap 1.1.1 looks for IPv6 chains of a pod without IPv6: what it says natively, it says through the shim.
        let checked = native(list, "CHECK", "shimmed", world.record("shimmed").unwrap().result.as_ref());
        let through = shim(world, "CHECK", "shimmed");
        match checked {
            Ok(_) => drop(through.succeeded()),
            Err(error) => assert_eq!(through.json()["msg"], error["msg"]),
        }
    }
    // The other backend is the node's by now.
    world.route(if backend == Backend::Flannel { Backend::Calico } else { Backend::Flannel });
    shim(world, "DEL", "shimmed").succeeded();
    shim(world, "DEL", "shimmed").succeeded();
    assert_eq!(leftovers(), before);
    world.assert_clean();
    for id in ["warm", "natively", "shimmed"] {
        run(&["ip", "netns", "delete", id]);
    }
}

#[test]
fn real_plugins_leave_the_same_and_then_nothing() {
    std::thread::spawn(|| {
        let world = World::new();
        node();
        compare(&world, Backend::Flannel, &bridge_list());
        compare(&world, Backend::Calico, &ptp_list());
    })
    .join()
    .unwrap();
}

#[test]
fn real_plugins_are_undone_and_survive_a_dead_netns() {
    std::thread::spawn(|| {
        let world = World::new();
        node();
        world.conflist(Backend::Flannel, &bridge_list());
        run(&["ip", "netns", "add", "p1"]);
        native(&bridge_list(), "ADD", "p1", None).unwrap();
        native(&bridge_list(), "DEL", "p1", None).unwrap();
        let before = leftovers();
        // portmap refuses: the bridge and the address go again.
        let mut refused = bridge_list();
        refused["plugins"][1]["conditionsV4"] = json!(["--no-such-option"]);
        world.conflist(Backend::Flannel, &refused);
        let answer = shim(&world, "ADD", "p1");
        assert!(!answer.ok, "{answer:?}");
        assert_eq!(leftovers(), before);
        world.assert_clean();
        world.conflist(Backend::Flannel, &bridge_list());
        // The netns disappears before the DEL, as after a reboot.
        shim(&world, "ADD", "p1").succeeded();
        run(&["ip", "netns", "delete", "p1"]);
        wait_for("the kernel to drop the veth", || !run(&["ip", "-br", "link"]).contains("veth"));
        shim(&world, "DEL", "p1").succeeded();
        assert_eq!(leftovers(), before);
        world.assert_clean();
    })
    .join()
    .unwrap();
}

#[test]
fn row_31_real_host_local_address_of_a_pod_older_than_the_shim() {
    std::thread::spawn(|| {
        let world = World::new();
        node();
        run(&["ip", "netns", "add", "p1"]);
        native(&bridge_list(), "ADD", "p1", None).unwrap();
        run(&["ip", "netns", "delete", "p1"]);
        let reserved = Path::new("/var/lib/cni/networks/cbr0/10.244.1.2");
        assert!(reserved.exists());
        // flannel's scratch file is gone (its own failed DEL removed it), no cache: only the address is left.
        shim(&world, "DEL", "p1").succeeded();
        assert!(!reserved.exists());
        world.assert_clean();
    })
    .join()
    .unwrap();
}
