//! A node with a runtime, the shim in front of two networks, and no kubelet that meddles: "flannel" is the real flannel plugin
//! with bridge, host-local and portmap, "calico" a ptp network under Calico's name.

#![allow(dead_code, reason = "each test program uses its part")]

use std::time::Duration;

use cni_spec::conflist::List;
use cni_store::backends::{Backends, shim_conflist, union_of_capabilities};
use cni_store::record::Record;
use cni_store::state::{Backend, Owner, State};
use nodectl_lab::cluster::{Cluster, Network, Options, until};
use nodectl_lab::command::Output;
use nodectl_lab::cri;
use nodectl_lab::kubelet::Cri;
use nodectl_lab::node::{Kind, Node};
use nodectl_lab::objects::flannel;
use serde_json::{Value, json};

pub const LIMIT: Duration = Duration::from_secs(20);
pub const SHIM_CONFLIST: &str = "/etc/cni/net.d/00-cni-shim.conflist";

/// The node; gone when dropped.
pub struct Bench {
    pub cluster: Cluster,
}

impl Bench {
    /// A node of this kind with both networks, and the shim not yet in front.
    pub fn native(kind: Kind) -> Bench {
        let options = Options { nodes: 1, kinds: vec![kind], api: false, network: Network::None, ..Options::default() };
        let bench = Bench { cluster: Cluster::start(options).expect("the node starts") };
        let node = bench.node();
        node.stop_unit("kubelet.service").expect("the kubelet stops");
        node.sh(
            "cp /usr/local/lib/nodectl-lab/plugins/flannel /opt/cni/bin/; mkdir -p /run/flannel; \
             printf 'FLANNEL_NETWORK=10.244.0.0/16\\nFLANNEL_SUBNET=10.244.1.1/24\\nFLANNEL_MTU=1450\\nFLANNEL_IPMASQ=true\\n' \
             > /run/flannel/subnet.env",
        )
        .expect("flannel's part");
        bench.write("/etc/cni/net.d/10-flannel.conflist", &flannel::conflist().to_string());
        bench.write("/etc/cni/net.d/10-calico.conflist", &second_list().to_string());
        bench
    }

    /// The same with the shim in front and routed to flannel.
    pub fn new(kind: Kind) -> Bench {
        let bench = Bench::native(kind);
        bench.install();
        bench
    }

    /// Puts the shim in front.
    pub fn install(&self) {
        self.node().sh("cp /usr/libexec/nodectl/cni-shim /opt/cni/bin/").expect("the shim's binary");
        self.route(Backend::Flannel);
        let lists = [flannel::conflist(), second_list()].map(|list| List::parse(list.to_string().as_bytes()).unwrap());
        let paths = cni_store::Paths::under("/");
        let capabilities = union_of_capabilities(&lists);
        let list = shim_conflist("cbr0", &paths, &Backends::default(), &capabilities, Backend::Flannel);
        // containerd ignores a file that comes; one that is written or renamed within the folder it reads.
        self.write("/etc/cni/net.d/.nodectl-shim", &list.to_string());
        self.node().sh(&format!("mv /etc/cni/net.d/.nodectl-shim {SHIM_CONFLIST}")).expect("the shim's conflist");
        self.wait_for("the runtime to use the shim", || self.plugins().contains(&"cni-shim".to_owned()));
    }

    pub fn node(&self) -> &dyn Node {
        self.cluster.node(1).expect("the node")
    }

    pub fn write(&self, path: &str, text: &str) {
        std::fs::write(self.node().path(path).expect("a path"), text).expect(path);
    }

    /// The shim's files, seen from here.
    pub fn paths(&self) -> cni_store::Paths {
        cni_store::Paths::under(self.node().path("/").expect("the root"))
    }

    pub fn route(&self, backend: Backend) {
        State::routed(backend).store(&self.paths()).expect("the state");
    }

    /// New pods wait, for a run whose process is one of the node's own: pids and the boot's id are the node's.
    pub fn hold(&self, run: &str, bound: Duration) {
        let look = "sleep 600 >/dev/null 2>&1 </dev/null & echo $!; cat /proc/sys/kernel/random/boot_id";
        let said = self.node().sh(look).expect("a process");
        let (pid, boot) = said.split_once('\n').expect("its pid");
        let pid = pid.parse().expect("a number");
        let owner = Owner { run: run.into(), pid, boot_id: boot.trim().into(), started: None };
        State::hold(Backend::Flannel, Backend::Calico, owner, bound).store(&self.paths()).expect("the state");
    }

    pub fn records(&self) -> Vec<Record> {
        Record::list(&self.paths()).expect("the records").0
    }

    pub fn cri(&self) -> Cri {
        Cri::new(&self.node().path("/run/containerd/containerd.sock").expect("a path")).expect("a client")
    }

    /// Types of the plugins that the runtime uses for pods.
    pub fn plugins(&self) -> Vec<String> {
        let Ok(status) = self.cri().status() else { return Vec::new() };
        let config: Value = status.info.get("cniconfig").and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default();
        let plugins = config["Networks"][1]["Config"]["Plugins"].as_array().cloned().unwrap_or_default();
        plugins.iter().filter_map(|p| p["Network"]["type"].as_str().map(str::to_owned)).collect()
    }

    /// Runs a sandbox; its id and address.
    pub fn run(&self, name: &str) -> (String, String) {
        let cri = self.cri();
        let id = cri.run_pod_sandbox(pod(name)).unwrap_or_else(|e| panic!("{name}: {e:#}"));
        let ip = cri.pod_sandbox_status(&id).expect("its status").network.unwrap_or_default().ip;
        (id, ip)
    }

    pub fn stop(&self, id: &str) {
        let cri = self.cri();
        cri.stop_pod_sandbox(id).unwrap_or_else(|e| panic!("{id}: {e:#}"));
        cri.remove_pod_sandbox(id).unwrap_or_else(|e| panic!("{id}: {e:#}"));
    }

    pub fn nodectl(&self, args: &[&str]) -> Output {
        let argv: Vec<&str> = std::iter::once("nodectl").chain(args.iter().copied()).collect();
        self.node().exec(&argv).expect("nodectl runs")
    }

    /// `nodectl ARGS --output json`, with this exit code.
    #[track_caller]
    pub fn json(&self, args: &[&str], code: i32) -> Value {
        let argv: Vec<&str> = args.iter().copied().chain(["--output", "json"]).collect();
        let output = self.nodectl(&argv);
        assert_eq!(output.code, code, "{args:?}: {output:?}");
        serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
    }

    #[track_caller]
    pub fn wait_for(&self, what: &str, is_so: impl Fn() -> bool) {
        until(LIMIT, || Ok((!is_so()).then(|| format!("waited in vain for {what}")))).unwrap();
    }

    /// What networks have left on the node: links, rules, leases, results, records.
    pub fn leftovers(&self) -> String {
        self.node()
            .sh("ip -o link | awk -F': ' '{split($2,a,\"@\"); print \"link \" a[1]}'; \
                 iptables-save 2>/dev/null | grep -E '^-A|CNI-DN' || true; \
                 find /var/lib/cni /var/lib/cni-shim/attachments /var/lib/cni-shim/pending /var/lib/cni-shim/holds \
                 /var/lib/cni-shim/locks -type f ! -name 'last_reserved*' ! -name lock ! -name state 2>/dev/null | sort || true")
            .expect("a look")
    }
}

/// A sandbox's configuration, with a port of the node and shaping.
pub fn pod(name: &str) -> cri::PodSandboxConfig {
    let metadata = cri::PodSandboxMetadata {
        name: name.into(),
        uid: format!("uid-{name}"),
        namespace: "default".into(),
        attempt: 0,
    };
    let host_port = 20_000 + i32::try_from(name.bytes().map(u64::from).sum::<u64>() % 10_000).unwrap();
    cri::PodSandboxConfig {
        metadata: Some(metadata),
        log_directory: format!("/var/log/pods/{name}"),
        port_mappings: vec![cri::PortMapping { protocol: 0, container_port: 7777, host_port, host_ip: String::new() }],
        annotations: [("kubernetes.io/ingress-bandwidth".to_owned(), "10M".to_owned())].into(),
        linux: Some(cri::LinuxPodSandboxConfig::default()),
        ..Default::default()
    }
}

/// A network under Calico's name whose plugins need no API server.
pub fn second_list() -> Value {
    json!({"name": "k8s-pod-network", "cniVersion": "1.0.0", "plugins": [
        {"type": "bridge", "bridge": "br1", "isDefaultGateway": true,
         "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.245.1.0/24"}]]}},
        {"type": "tuning", "mtu": 1400},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}]})
}
