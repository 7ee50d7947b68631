//! A node in a temporary directory, with scriptable delegates (fake-plugin.sh) and the real shim.

#![allow(dead_code, reason = "each test program uses its part")]

pub mod crio;
pub mod libcni;

use cni_spec::conflist::List;
use cni_store::Paths;
use cni_store::backends::{Backends, shim_conflist, union_of_capabilities};
use cni_store::record::Record;
use cni_store::state::{Backend, State};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// CNI_ARGS as containerd sends them.
pub const ARGS: &str = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u-1;IgnoreUnknown=1";

/// The node.
pub struct World {
    dir: tempfile::TempDir,
}

/// A delegate's call.
#[derive(Clone, PartialEq)]
pub struct Logged {
    pub kind: String,
    pub verb: String,
    pub container_id: String,
    pub stdin: Value,
    pub env: BTreeMap<String, String>,
}

impl std::fmt::Debug for Logged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.env.iter().filter(|(name, _)| name.starts_with("CNI_")).collect();
        write!(
            f,
            "{} {} {names:?} and {} other variables\n{}",
            self.kind,
            self.verb,
            self.env.len() - names.len(),
            self.stdin
        )
    }
}

/// What the shim answered.
#[derive(Debug)]
pub struct Answer {
    pub ok: bool,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Answer {
    pub fn of(output: Output, since: Instant) -> Self {
        Self {
            ok: output.status.success(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: since.elapsed(),
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|cause| panic!("{cause}: {self:?}"))
    }

    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert!(self.ok, "{self:?}");
        self
    }

    /// The error object, which must be one with this code and, as the specification wants, a version.
    #[track_caller]
    pub fn failed(self, code: u32) -> Self {
        assert!(!self.ok, "{self:?}");
        let error = self.json();
        assert_eq!(error["code"], code, "{self:?}");
        assert!(error["cniVersion"].is_string() && !error["msg"].as_str().unwrap().is_empty(), "{self:?}");
        self
    }
}

/// A call of the shim, as a runtime makes it.
pub struct Call<'a> {
    world: &'a World,
    pub env: BTreeMap<String, String>,
    pub config: Map<String, Value>,
}

impl World {
    /// flannel (cbr0, 0.3.1: flannel, portmap) and Calico (k8s-pod-network, 1.0.0: calico, bandwidth), all ready; no state.
    pub fn new() -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap() };
        for dir in ["bin", "calls", "do", "root/var/lib/cni/flannel", "root/etc/cni/net.d"] {
            fs::create_dir_all(world.path(dir)).unwrap();
        }
        for kind in ["flannel", "portmap", "calico", "bandwidth"] {
            world.install("bin", kind);
        }
        world.write("root/run/flannel/subnet.env", "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_MTU=1450\n");
        world.write("root/var/lib/calico/nodename", "node1");
        world.write("root/etc/cni/net.d/calico-kubeconfig", "");
        world.conflist(Backend::Flannel, &flannel_list());
        world.conflist(Backend::Calico, &calico_list());
        world
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    pub fn paths(&self) -> Paths {
        Paths::under(self.path("root"))
    }

    pub fn write(&self, relative: &str, text: &str) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn install(&self, bin: &str, kind: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/shim/fake-plugin.sh");
        fs::create_dir_all(self.path(bin)).unwrap();
        std::os::unix::fs::symlink(script.canonicalize().unwrap(), self.path(bin).join(kind)).unwrap();
    }

    pub fn conflist_path(&self, backend: Backend) -> PathBuf {
        self.paths().node(Backends::default().path(backend))
    }

    pub fn conflist(&self, backend: Backend, list: &Value) {
        fs::write(self.conflist_path(backend), list.to_string()).unwrap();
    }

    /// What a plugin does on a verb: `tell("flannel.ADD", "fail 7 no why")`.
    pub fn tell(&self, whom: &str, script: &str) {
        self.write(&format!("do/{whom}"), script);
    }

    pub fn untell(&self, whom: &str) {
        fs::remove_file(self.path("do").join(whom)).unwrap();
    }

    pub fn route(&self, backend: Backend) {
        State::routed(backend).store(&self.paths()).unwrap();
    }

    /// The shim's entry as nodectl installs it, with the test's root.
    pub fn entry(&self) -> Map<String, Value> {
        let lists = [flannel_list(), calico_list()].map(|list| List::parse(list.to_string().as_bytes()).unwrap());
        let capabilities = union_of_capabilities(&lists);
        let list = shim_conflist("cbr0", &self.paths(), &Backends::default(), &capabilities, Backend::Flannel);
        let mut entry = list["plugins"][0].as_object().unwrap().clone();
        entry.insert("root".into(), self.path("root").to_str().unwrap().into());
        entry
    }

    pub fn call(&self, verb: &str, container_id: &str) -> Call<'_> {
        let netns = format!("/var/run/netns/{container_id}");
        let bin = self.path("bin");
        let env = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", container_id),
            ("CNI_NETNS", &netns),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", ARGS),
            ("CNI_PATH", bin.to_str().unwrap()),
        ];
        let env = env.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let mut config = self.entry();
        config.insert("cniVersion".into(), "1.1.0".into());
        config.insert("name".into(), "cbr0".into());
        Call { world: self, env, config }
    }

    pub fn add(&self, container_id: &str) -> Answer {
        self.call("ADD", container_id).go()
    }

    /// An ADD whose first delegate is at work, until the file `go` is written.
    pub fn begin_add(&self, container_id: &str) -> Child {
        self.tell("flannel.ADD", "echo > $world/started; while [ ! -e $world/go ]; do sleep 0.01; done");
        let shim = self.call("ADD", container_id).spawn();
        wait_for("the delegate", || self.path("started").exists());
        shim
    }

    pub fn del(&self, container_id: &str) -> Answer {
        self.call("DEL", container_id).go()
    }

    /// "type VERB" of every call so far, and forget them.
    pub fn take_log(&self) -> Vec<String> {
        let log = self.calls().iter().map(|call| format!("{} {}", call.kind, call.verb)).collect();
        let _ = fs::remove_file(self.path("log"));
        log
    }

    pub fn calls(&self) -> Vec<Logged> {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        log.lines().map(|line| self.logged(&line.split(' ').collect::<Vec<_>>())).collect()
    }

    fn logged(&self, fields: &[&str]) -> Logged {
        let [kind, verb, container_id, call] = fields else { panic!("{fields:?}") };
        let read = |file| fs::read_to_string(self.path("calls").join(call).join(file)).unwrap();
        let env =
            read("env").lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
        Logged {
            kind: (*kind).into(),
            verb: (*verb).into(),
            container_id: (*container_id).into(),
            stdin: serde_json::from_str(&read("stdin")).unwrap_or_default(),
            env,
        }
    }

    pub fn record(&self, container_id: &str) -> Option<Record> {
        Record::load(&self.paths(), container_id, "eth0").unwrap()
    }

    /// Nothing of any attachment is left in the shim's state directory.
    #[track_caller]
    pub fn assert_clean(&self) {
        for dir in ["attachments", "pending", "holds", "locks"] {
            let dir = self.paths().state_dir().join(dir);
            let left: Vec<_> =
                fs::read_dir(&dir).map(|all| all.map(|entry| entry.unwrap().file_name()).collect()).unwrap_or_default();
            let left: Vec<_> = left.into_iter().filter(|name| name != "state").collect();
            assert!(left.is_empty(), "{}: {left:?}", dir.display());
        }
    }
}

impl Call<'_> {
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.insert(key.into(), value.into());
        self
    }

    pub fn unset(mut self, key: &str) -> Self {
        self.env.remove(key);
        self
    }

    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.into(), value);
        self
    }

    pub fn limits(self, limits: Value) -> Self {
        self.with("deadlinesMs", limits)
    }

    pub fn spawn(&self) -> Child {
        self.spawn_with(Value::Object(self.config.clone()).to_string().as_bytes())
    }

    pub fn spawn_with(&self, stdin: &[u8]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cni-shim"));
        command.env_remove("CNI_COMMAND").envs(&self.env);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(stdin);
        child
    }

    pub fn go(&self) -> Answer {
        let since = Instant::now();
        Answer::of(self.spawn().wait_with_output().unwrap(), since)
    }

    pub fn go_with(&self, stdin: &[u8]) -> Answer {
        let since = Instant::now();
        Answer::of(self.spawn_with(stdin).wait_with_output().unwrap(), since)
    }
}

/// Whether every case is to be run, however long it takes.
pub fn is_full() -> bool {
    std::env::var("NODECTL_TESTS_FULL").is_ok_and(|word| word == "1")
}

/// The seed of this run's samples.
pub fn seed() -> u64 {
    std::env::var("NODECTL_TESTS_SEED").ok().and_then(|word| word.parse().ok()).unwrap_or(1)
}

pub fn flannel_list() -> Value {
    json!({"name": "cbr0", "cniVersion": "0.3.1", "plugins": [
        {"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}},
        {"type": "portmap", "capabilities": {"portMappings": true}}]})
}

pub fn calico_list() -> Value {
    json!({"name": "k8s-pod-network", "cniVersion": "1.0.0", "plugins": [
        {"type": "calico", "mtu": 0, "nodename": "node1", "ipam": {"type": "calico-ipam"},
         "kubernetes": {"kubeconfig": "/etc/cni/net.d/calico-kubeconfig"}},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}}]})
}

/// Canal's: Calico's plugin with host-local's addresses, under the name that Calico's own network has.
pub fn canal_list() -> Value {
    json!({"name": "k8s-pod-network", "cniVersion": "1.0.0", "plugins": [
        {"type": "calico", "mtu": 0, "nodename": "node1", "ipam": {"type": "host-local", "subnet": "usePodCidr"},
         "kubernetes": {"kubeconfig": "/etc/cni/net.d/calico-kubeconfig"}},
        {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}]})
}

/// What does not wait for what hangs has ended by then, on a busy machine, too; what does takes minutes. Locks of this process are
/// waited for as well: a program that another test starts has a copy of them until it runs.
pub const SOON: Duration = Duration::from_secs(30);

pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a test on a thread of its own in namespaces of its own; nobody else sees its mounts.
pub fn in_namespaces(more: CloneFlags, test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(more | CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// libcni's cached result of a sandbox, as libcni writes it.
pub fn cache_file(world: &World, list: &Value, container_id: &str, result: &Value) {
    let capabilities = json!({"portMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp"}]});
    let runtime = libcni::Runtime::new(world, list.clone(), container_id, capabilities);
    runtime.store(&world.path("root/var/lib/cni/results"), result);
}
