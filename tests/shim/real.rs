//! Debian's bridge, ptp, host-local, portmap, bandwidth and tuning plugins and the real flannel plugin, natively (by the tests'
//! own libcni) and through the shim, in network and mount namespaces of the test thread's own.

use crate::common::libcni::Runtime;
use crate::common::{Answer, Call, Logged, World, in_namespaces, wait_for};
use cni_store::pending::Pending;
use cni_store::record::Record;
use cni_store::state::Backend;
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

const KINDS: [&str; 7] = ["bridge", "ptp", "host-local", "portmap", "bandwidth", "tuning", "flannel"];

pub fn run(argv: &[&str]) -> String {
    let output = Command::new(argv[0]).args(&argv[1..]).output().unwrap_or_else(|cause| panic!("{argv:?}: {cause}"));
    assert!(output.status.success(), "{argv:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A plugin's binary: in LAB_CNI_BIN_DIR, of Debian's package, or of the older package that tests/provision has fetched.
fn binary(kind: &str) -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| Path::new(&std::env::var("HOME").unwrap_or("/root".into())).join(".cache"));
    let given = std::env::var_os("LAB_CNI_BIN_DIR").map(PathBuf::from);
    let folders = given.into_iter().chain(["/usr/lib/cni".into(), cache.join("nodectl-lab/cni-0.9.0/usr/lib/cni")]);
    let mut found = folders.map(|folder| folder.join(kind)).filter(|file| file.is_file());
    found.next().unwrap_or_else(|| panic!("the plugin {kind} is missing. To fix it: run tests/provision"))
}

/// Makes this thread's namespaces a node: loopback, an uplink to nowhere, private /run and /var/lib, flannel's subnet file; the real plugins behind
/// spies in `spy`.
fn node(world: &World) {
    fs::create_dir_all(world.path("spy")).unwrap();
    fs::create_dir_all(world.path("real")).unwrap();
    let spy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/shim/spy-plugin.sh").canonicalize().unwrap();
    for kind in KINDS {
        symlink(&spy, world.path("spy").join(kind)).unwrap();
        symlink(binary(kind), world.path("real").join(kind)).unwrap();
    }
    for dir in ["/run", "/var/lib"] {
        mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    }
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>).unwrap();
    run(&["ip", "link", "set", "lo", "up"]);
    run(&["ip", "link", "add", "up0", "type", "bridge"]);
    run(&["ip", "address", "add", "192.0.2.1/24", "dev", "up0"]);
    run(&["ip", "link", "set", "up0", "up"]);
    run(&["ip", "route", "add", "default", "via", "192.0.2.254"]);
    let env = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
    fs::create_dir_all("/run/flannel").unwrap();
    fs::write("/run/flannel/subnet.env", env).unwrap();
}

/// Runs a test on a node of its own.
pub fn on_a_node(test: impl FnOnce(&World) + Send + 'static) {
    in_namespaces(CloneFlags::CLONE_NEWNET, move || {
        let world = World::new();
        node(&world);
        test(&world);
    });
}

fn host_local(subnet: &str) -> Value {
    json!({"type": "host-local", "ranges": [[{"subnet": subnet}]]})
}

/// kube-flannel's own list.
fn flannel_list() -> Value {
    json!({"name": "cbr0", "cniVersion": "0.3.1", "plugins": [
        {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
        {"type": "portmap", "capabilities": {"portMappings": true}}]})
}

/// flannel with everything behind it, in the version that its 0.9.0 plugin can.
pub fn long_flannel_list() -> Value {
    json!({"name": "cbr0", "cniVersion": "0.4.0", "plugins": [
        {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
        {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_notify": "1"}, "mtu": 1400},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}]})
}

pub fn bridge_list() -> Value {
    json!({"name": "k8s-pod-network", "cniVersion": "1.0.0", "plugins": [
        {"type": "bridge", "bridge": "br1", "isDefaultGateway": true, "hairpinMode": true, "ipam": host_local("10.245.1.0/24")},
        {"type": "tuning", "mtu": 1400},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}]})
}

fn ptp_list() -> Value {
    json!({"name": "k8s-pod-network", "cniVersion": "1.0.0", "plugins": [
        {"type": "ptp", "ipMasq": true, "ipam": host_local("10.246.1.0/24")},
        {"type": "portmap", "capabilities": {"portMappings": true}}]})
}

pub fn capability_args() -> Value {
    json!({"portMappings": [{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": 1_000_000, "ingressBurst": 1_000_000, "egressRate": 1_000_000, "egressBurst": 1_000_000}})
}

fn native<'a>(world: &'a World, list: &Value, id: &'a str) -> Runtime<'a> {
    let mut runtime = Runtime::new(world, list.clone(), id, capability_args());
    (runtime.bin, runtime.netns) = (world.path("spy"), format!("/run/netns/{id}"));
    runtime
}

fn call<'a>(world: &'a World, verb: &str, id: &str) -> Call<'a> {
    let spies = world.path("spy").display().to_string();
    let mut call = world.call(verb, id).env("CNI_PATH", &spies).env("CNI_NETNS", &format!("/run/netns/{id}"));
    call = call.with("runtimeConfig", capability_args()).with("root", "/".into());
    for (backend, path) in [("flannel", Backend::Flannel), ("calico", Backend::Calico)] {
        call.config["backends"][backend] = world.conflist_path(path).to_str().unwrap().into();
    }
    call
}

fn shim(world: &World, verb: &str, id: &str) -> Answer {
    call(world, verb, id).go()
}

/// What networking has left on the node: links, chains and rules, addresses, scratch files.
pub fn leftovers() -> BTreeSet<String> {
    let links = run(&["ip", "-br", "link"]);
    let links = links.lines().filter_map(|line| line.split(['@', ' ']).next());
    let mut left: BTreeSet<_> = links.map(|link| format!("link {link}")).collect();
    let rules = run(&["iptables-save"]);
    left.extend(rules.lines().filter(|line| line.starts_with("-A") || line.contains("CNI-DN")).map(str::to_owned));
    let networks = fs::read_dir("/var/lib/cni/networks").into_iter().flatten().flatten().map(|network| network.path());
    for folder in networks.chain(["/var/lib/cni/flannel".into()]) {
        let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path().display().to_string());
        left.extend(files.filter(|file| !file.contains("last_reserved") && !file.ends_with("lock")));
    }
    left
}

/// What a pod's own network looks like.
pub fn inside(id: &str) -> (String, String) {
    let addresses = run(&["ip", "-n", id, "-o", "address", "show", "dev", "eth0", "scope", "global"]);
    (addresses, run(&["ip", "-n", id, "route"]))
}

/// A JSON document without what the kernel and the plugins draw anew each time: MACs and the names of veths; and without an empty
/// `dns`, which libcni leaves out from 1.2 on and puts in before.
fn normal(mut value: Value) -> Value {
    match &mut value {
        Value::Object(map) => {
            map.retain(|key, value| key != "dns" || *value != json!({}));
            for (key, value) in map.iter_mut() {
                let drawn =
                    key == "mac" || key == "name" && value.as_str().is_some_and(|name| name.starts_with("veth"));
                *value = if drawn { format!("some {key}").into() } else { normal(value.take()) };
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| *value = normal(value.take())),
        _ => {}
    }
    value
}

/// The calls since the last look, without what differs from process to process.
pub fn seen(world: &World) -> Vec<Logged> {
    let mut calls = world.calls();
    world.take_log();
    for call in &mut calls {
        call.stdin = normal(call.stdin.take());
        for own in ["_", "PWD", "OLDPWD", "SHLVL", "NETCONFPATH"] {
            call.env.remove(own);
        }
    }
    calls
}

/// One pod's life: what the plugins were given at ADD, at CHECK and at DEL, the result, the pod's network, and what was on the
/// node while it lived.
type Life = (Vec<Logged>, Vec<Logged>, Vec<Logged>, Value, (String, String), usize);

fn natively(world: &World, list: &Value) -> Life {
    let runtime = native(world, list, "pod");
    let result = runtime.add().unwrap();
    let (added, network, attached) = (seen(world), inside("pod"), leftovers().len());
    // portmap 1.1.1 looks for IPv6 chains of a pod without IPv6; what it says natively, it says through the shim.
    let _ = (list["cniVersion"].as_str() > Some("0.4")).then(|| runtime.check(&result));
    let checked = seen(world);
    runtime.del(Some(&result)).unwrap();
    (added, checked, seen(world), normal(result), network, attached)
}

fn through_the_shim(world: &World, list: &Value, backend: Backend) -> Life {
    let version = |call: Call<'_>| call.with("cniVersion", list["cniVersion"].clone()).go();
    world.route(backend);
    let result = version(call(world, "ADD", "pod")).succeeded().json();
    let (added, network, attached) = (seen(world), inside("pod"), leftovers().len());
    let address = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap();
    let gateway = address.rsplit_once('.').unwrap().0.to_owned() + ".1";
    run(&["ip", "netns", "exec", "pod", "ping", "-c1", "-W2", &gateway]);
    if list["cniVersion"].as_str() > Some("0.4") {
        version(call(world, "CHECK", "pod"));
    }
    let checked = seen(world);
    // The other backend is the node's by now.
    world.route(if backend == Backend::Flannel { Backend::Calico } else { Backend::Flannel });
    version(call(world, "DEL", "pod")).succeeded();
    let deleted = seen(world);
    version(call(world, "DEL", "pod")).succeeded();
    assert!(seen(world).is_empty());
    world.assert_clean();
    (added, checked, deleted, normal(result), network, attached)
}

fn compare(world: &World, backend: Backend, list: &Value) {
    world.conflist(backend, list);
    let in_a_pod = |life: &dyn Fn() -> Life| {
        run(&["ip", "netns", "add", "pod"]);
        let life = life();
        run(&["ip", "netns", "delete", "pod"]);
        fs::remove_dir_all("/var/lib/cni/networks").unwrap();
        (life, leftovers())
    };
    // Once before: bridges and top-level chains stay by design.
    let (_, before) = in_a_pod(&|| natively(world, list));
    let (expected, left) = in_a_pod(&|| natively(world, list));
    assert_eq!(left, before);
    let (found, left) = in_a_pod(&|| through_the_shim(world, list, backend));
    assert_eq!(left, before);
    assert!(!expected.0.is_empty() && !expected.2.is_empty());
    let names = |calls: &[Logged]| calls.iter().map(|call| format!("{} {}", call.kind, call.verb)).collect::<Vec<_>>();
    for (found, expected) in [(&found.0, &expected.0), (&found.1, &expected.1), (&found.2, &expected.2)] {
        assert_eq!(names(found), names(expected), "{list}");
        found.iter().zip(expected).for_each(|(found, expected)| assert_eq!(found, expected, "{list}"));
    }
    assert_eq!((&found.3, &found.4, found.5), (&expected.3, &expected.4, expected.5), "{list}");
}

#[test]
fn real_plugins_cannot_tell_the_shim_from_libcni() {
    on_a_node(|world| {
        compare(world, Backend::Flannel, &flannel_list());
        compare(world, Backend::Flannel, &long_flannel_list());
        compare(world, Backend::Calico, &bridge_list());
        compare(world, Backend::Calico, &ptp_list());
    });
}

#[test]
fn real_plugins_are_undone_and_survive_a_dead_netns() {
    on_a_node(|world| {
        world.conflist(Backend::Flannel, &flannel_list());
        run(&["ip", "netns", "add", "p1"]);
        let runtime = native(world, &flannel_list(), "p1");
        let result = runtime.add().unwrap();
        runtime.del(Some(&result)).unwrap();
        let before = leftovers();
        // portmap refuses: the bridge's port, the address and flannel's scratch file go again.
        let mut refused = flannel_list();
        refused["plugins"][1]["conditionsV4"] = json!(["--no-such-option"]);
        world.conflist(Backend::Flannel, &refused);
        let answer = shim(world, "ADD", "p1");
        assert!(!answer.ok, "{answer:?}");
        assert_eq!(leftovers(), before);
        world.assert_clean();
        world.conflist(Backend::Flannel, &flannel_list());
        // The netns disappears before the DEL, as after a reboot.
        shim(world, "ADD", "p1").succeeded();
        run(&["ip", "netns", "delete", "p1"]);
        wait_for("the kernel to drop the veth", || !run(&["ip", "-br", "link"]).contains("veth"));
        shim(world, "DEL", "p1").succeeded();
        assert_eq!(leftovers(), before);
        world.assert_clean();
    });
}

#[test]
fn row_31_real_host_local_address_of_a_pod_older_than_the_shim() {
    on_a_node(|world| {
        world.conflist(Backend::Flannel, &flannel_list());
        run(&["ip", "netns", "add", "p1"]);
        native(world, &flannel_list(), "p1").add().unwrap();
        run(&["ip", "netns", "delete", "p1"]);
        let reserved = Path::new("/var/lib/cni/networks/cbr0/10.244.1.2");
        assert!(reserved.exists());
        // Its own failed DEL has removed flannel's scratch file, and there is no cache: only the address is left.
        fs::remove_file("/var/lib/cni/flannel/p1").unwrap();
        shim(world, "DEL", "p1").succeeded();
        assert!(!reserved.exists());
        world.assert_clean();
    });
}

#[test]
fn row_20_real_flannel_whose_delegate_failed_once() {
    on_a_node(|world| {
        world.conflist(Backend::Flannel, &flannel_list());
        run(&["ip", "netns", "add", "p1"]);
        let scratch = Path::new("/var/lib/cni/flannel/p1");
        let address = Path::new("/var/lib/cni/networks/cbr0/10.244.1.2");
        let bridge = world.path("spy/bridge");
        let away = || fs::rename(&bridge, bridge.with_extension("away")).unwrap();
        let back = || fs::rename(bridge.with_extension("away"), &bridge).unwrap();
        shim(world, "ADD", "p1").succeeded();
        assert!(address.exists() && scratch.exists());
        away();
        let failed = shim(world, "DEL", "p1");
        assert!(
            !failed.ok && !failed.stdout.contains("not found") && !failed.stdout.contains("no such file"),
            "{failed:?}"
        );
        assert!(address.exists() && scratch.exists(), "flannel's scratch file is kept for the next try");
        let paths = world.paths();
        assert_eq!(Pending::list(&paths).unwrap().0.len(), 1);
        back();
        shim(world, "DEL", "p1").succeeded();
        assert!(!address.exists() && !scratch.exists());
        assert!(Record::list(&paths).unwrap().0.is_empty() && Pending::list(&paths).unwrap().0.is_empty());
    });
}

#[test]
fn row_22_real_plugins_in_a_flip() {
    let pods = if crate::common::is_full() { 100 } else { 24 };
    on_a_node(move |world| {
        let ids: Vec<String> = (0..pods).map(|n| format!("p{n}")).collect();
        for (backend, list) in [(Backend::Flannel, flannel_list()), (Backend::Calico, bridge_list())] {
            world.conflist(backend, &list);
            run(&["ip", "netns", "add", "warm"]);
            let runtime = native(world, &list, "warm");
            let result = runtime.add().unwrap();
            runtime.del(Some(&result)).unwrap();
            run(&["ip", "netns", "delete", "warm"]);
        }
        world.route(Backend::Flannel);
        let before = leftovers();
        ids.iter().for_each(|id| drop(run(&["ip", "netns", "add", id])));
        // Without ports: they would all want the same one.
        let start = |verb: &str, id: &String| call(world, verb, id).with("runtimeConfig", json!({})).spawn();
        let adds = ids.iter().enumerate().map(|(n, id)| {
            if n == pods / 2 {
                world.route(Backend::Calico);
            }
            start("ADD", id)
        });
        for add in adds.collect::<Vec<_>>() {
            let output = add.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        let (records, _) = Record::list(&world.paths()).unwrap();
        let on = |backend| records.iter().filter(|record| record.backend == backend).count();
        assert_eq!((records.len(), on(Backend::Flannel) + on(Backend::Calico)), (pods, pods));
        assert!(on(Backend::Calico) >= pods / 2 && on(Backend::Flannel) > 0, "{} on flannel", on(Backend::Flannel));
        let networks = |id: &str| (inside(id).0.contains("10.244.1."), inside(id).0.contains("10.245.1."));
        for record in &records {
            assert_eq!(
                networks(&record.container_id),
                (record.backend == Backend::Flannel, record.backend == Backend::Calico)
            );
        }
        for del in ids.iter().map(|id| start("DEL", id)).collect::<Vec<_>>() {
            let output = del.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        assert_eq!(leftovers(), before);
        world.assert_clean();
    });
}
