//! The real libcni (its cnitool) and the real flannel plugin, natively and through the shim. They are not packaged, so
//! these tests run where SHIM_GO_BIN names a directory with `cnitool` and `flannel`:
//!
//! `go install github.com/containernetworking/cni/cnitool@v1.3.0` (or `@v1.1.2`, the libcni of containerd 1.6 and 1.7), and `go build` in github.com/flannel-io/cni-plugin.

use crate::common::{ARGS, World, flannel_list};
use crate::real::{PLUGINS, inside, leftovers, node, run, runtime_config};
use cni_shim::Paths;
use cni_shim::conflist::{Backends, List, shim_conflist, union_of_capabilities};
use cni_shim::pending::Pending;
use cni_shim::state::{Backend, State};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

struct Tool {
    dir: PathBuf,
    conflists: PathBuf,
    cni_path: String,
}

impl Tool {
    fn run(&self, verb: &str, netns: &str) -> Result<Value, String> {
        let mut command = Command::new(self.dir.join("cnitool"));
        command.args([verb, "cbr0", &format!("/run/netns/{netns}")]).env("NETCONFPATH", &self.conflists);
        command.env("CNI_PATH", &self.cni_path).env("CNI_ARGS", ARGS).env("CAP_ARGS", runtime_config().to_string());
        let output = command.output().unwrap();
        if output.status.success() {
            return Ok(serde_json::from_slice(&output.stdout).unwrap_or_default());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout))
    }
}

/// A node with flannel, and the shim's conflist in a directory of its own: (native, through the shim).
fn tools(world: &World) -> Option<(Tool, Tool)> {
    let dir = PathBuf::from(std::env::var_os("SHIM_GO_BIN")?);
    node();
    let shim_dir = world.path("shim-bin");
    fs::create_dir_all(&shim_dir).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_cni-shim"), shim_dir.join("cni-shim")).unwrap();
    let native_dir = world.conflist_path(Backend::Flannel).parent().unwrap().to_owned();
    fs::remove_file(world.conflist_path(Backend::Calico)).unwrap();
    fs::create_dir_all("/run/flannel").unwrap();
    let env = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
    fs::write("/run/flannel/subnet.env", env).unwrap();
    let backends = Backends { flannel: world.conflist_path(Backend::Flannel), calico: world.path("none") };
    let list = List::parse(flannel_list().to_string().as_bytes()).unwrap();
    let conflist =
        shim_conflist("cbr0", &Paths::default(), &backends, &union_of_capabilities([&list]), Backend::Flannel);
    world.write("net.d/00-cni-shim.conflist", &conflist.to_string());
    let cni_path = format!("{}:{}:{PLUGINS}", shim_dir.display(), dir.display());
    let native = Tool { dir: dir.clone(), conflists: native_dir, cni_path: cni_path.clone() };
    Some((native, Tool { dir, conflists: world.path("net.d"), cni_path }))
}

fn caches() -> Vec<String> {
    let mut names = Vec::new();
    for dir in
        ["/var/lib/cni/results", "/var/lib/cni/flannel", "/var/lib/cni-shim/attachments", "/var/lib/cni-shim/pending"]
    {
        names.extend(fs::read_dir(dir).into_iter().flatten().flatten().map(|file| file.path().display().to_string()));
    }
    names
}

#[test]
fn libcni_and_flannel_work_as_natively_and_leave_nothing() {
    std::thread::spawn(|| {
        let world = World::new();
        let Some((native, shim)) = tools(&world) else { return };
        for netns in ["warm", "natively", "shimmed"] {
            run(&["ip", "netns", "add", netns]);
        }
        native.run("add", "warm").unwrap();
        native.run("del", "warm").unwrap();
        let before = leftovers();
        fs::remove_dir_all("/var/lib/cni/networks").unwrap();
        let expected = native.run("add", "natively").unwrap();
        let (seen, attached) = (inside("natively"), leftovers().len());
        native.run("del", "natively").unwrap();
        fs::remove_dir_all("/var/lib/cni/networks").unwrap();

        let result = shim.run("add", "shimmed").unwrap();
        // libcni before 1.2 (containerd 1.6 and 1.7) does not know cniVersions, nor STATUS and GC.
        let newer = result["cniVersion"] == "1.1.0";
        assert!(newer || result["cniVersion"] == "1.0.0", "{result}");
        if newer {
            shim.run("status", "shimmed").unwrap();
        }
        assert_eq!(cni_shim::convert::result(&result, "0.3.1").unwrap()["ips"], expected["ips"]);
        assert_eq!(inside("shimmed"), seen);
        assert_eq!(leftovers().len(), attached);
        shim.run("check", "shimmed").unwrap();
        shim.run("add", "shimmed").unwrap_err();
        assert_eq!(leftovers().len(), attached, "a second ADD does no harm");
        State::routed(Backend::Calico).store(&Paths::default()).unwrap();
        shim.run("del", "shimmed").unwrap();
        shim.run("del", "shimmed").unwrap();
        assert_eq!(leftovers(), before);
        assert_eq!(caches(), [""; 0]);

        // A pod of before the shim goes through the shim, as containerd sends it.
        native.run("add", "natively").unwrap();
        shim.run("del", "natively").unwrap();
        assert_eq!(leftovers(), before);
        assert_eq!(caches(), [""; 0]);

        // libcni's GC sends a DEL for each cached attachment of its own.
        State::routed(Backend::Flannel).store(&Paths::default()).unwrap();
        shim.run("add", "shimmed").unwrap();
        shim.run(if newer { "gc" } else { "del" }, "shimmed").unwrap();
        assert_eq!(leftovers(), before);
        assert_eq!(caches(), [""; 0]);
    })
    .join()
    .unwrap();
}

#[test]
fn row_20_real_flannel_whose_delegate_failed_once() {
    std::thread::spawn(|| {
        let world = World::new();
        let Some((_, shim)) = tools(&world) else { return };
        run(&["ip", "netns", "add", "p1"]);
        shim.run("add", "p1").unwrap();
        let address = Path::new("/var/lib/cni/networks/cbr0/10.244.1.2");
        assert!(address.exists());
        // bridge is missing for a moment: flannel's DEL fails, and removes its scratch file all the same.
        let without = Tool {
            cni_path: shim.cni_path.replace(PLUGINS, "/nowhere"),
            dir: shim.dir.clone(),
            conflists: shim.conflists.clone(),
        };
        let error = without.run("del", "p1").unwrap_err();
        assert!(!error.contains("not found") && !error.contains("no such file or directory"), "{error}");
        assert!(address.exists());
        assert_eq!(Pending::list(&Paths::default()).unwrap().len(), 1);
        shim.run("del", "p1").unwrap();
        assert!(!address.exists(), "natively, it would stay reserved for ever");
        assert_eq!(caches(), [""; 0]);
    })
    .join()
    .unwrap();
}
