//! A bridge with throw-away nodes around it, and an API server that they reach over it.

use std::path::{Path, PathBuf};

use nodectl_lab::apiserver::{Listen, Options, Server};
use nodectl_lab::client::{Client, Patch};
use nodectl_lab::objects;
use nodectl_lab::wait::eventually;
use serde_json::{Value, json};

use crate::host::{Daemon, Host, LAB};
use crate::prepared::prepare;

/// A bridge, an API server on it, hosts around it.
pub struct World {
    /// The hosts, node1 first.
    pub hosts: Vec<Host>,
    /// As the cluster's administrator.
    pub admin: Client,
    /// The server.
    pub server: Server,
    underlay: Host,
    folder: tempfile::TempDir,
}

impl World {
    /// Boots `count` hosts and registers their Nodes: no agent runs yet.
    pub fn new(count: u8) -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let underlay = Host::new("underlay");
        underlay.sh("ip link add ul0 type bridge; ip link set ul0 up; ip address add 192.168.77.254/24 dev ul0");
        let mut options = Options::new(folder.path().join("pki"));
        options.no_controllers = true;
        let netns = PathBuf::from(format!("/proc/{}/ns/net", underlay.pid()));
        options.listen.push(Listen { netns: Some(netns), address: "192.168.77.254:6443".parse().expect("an address") });
        let server = Server::start(&options).expect("the API server starts");
        let admin =
            Client::from_text(&server.pki.admin_kubeconfig(&server.url()).expect("a kubeconfig")).expect("a client");
        objects::install(&admin, &objects::calico_crds::manifests()).expect("Calico's definitions");
        objects::install(&admin, &objects::calico_roles::manifests()).expect("Calico's roles");
        objects::install(&admin, &objects::flannel::roles()).expect("flannel's roles");
        let mut world = World { hosts: Vec::new(), admin, server, underlay, folder };
        for account in ["kube-system/calico-node", "kube-system/calico-cni-plugin", "kube-flannel/flannel"] {
            world.account(account);
        }
        for index in 1..=count {
            world.boot(index);
        }
        world
    }

    fn account(&self, account: &str) {
        let (namespace, name) = account.split_once('/').expect("a namespace and a name");
        self.admin.ensure("/api/v1/namespaces", &json!({"metadata": {"name": namespace}})).expect("a namespace");
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        self.admin.ensure(&path, &json!({"metadata": {"name": name}})).expect("an account");
    }

    fn boot(&mut self, index: u8) {
        let host = Host::new(&format!("node{index}"));
        let port = format!("v{index}");
        self.underlay.sh(&format!(
            "ip link add {port} type veth peer name eth0 netns {}; ip link set {port} master ul0 up",
            host.pid()
        ));
        host.sh(&format!("ip address add 192.168.77.{index}/24 dev eth0; ip link set eth0 up; ip route add default via 192.168.77.254; echo 1 > /proc/sys/net/ipv4/ip_forward"));
        for (file, namespace, account) in
            [("flannel", "kube-flannel", "flannel"), ("calico-node", "kube-system", "calico-node")]
        {
            let token = self.admin.token(namespace, account, 3600).expect("a token");
            let text =
                self.server.pki.token_kubeconfig("https://192.168.77.254:6443", account, &token).expect("a kubeconfig");
            let staged = self.folder.path().join(format!("{}-{file}.conf", host.name));
            std::fs::write(&staged, text).expect("a file");
            host.sh(&format!("cp {} /etc/kubernetes/lab/{file}.conf", staged.display()));
        }
        let node = json!({"metadata": {"name": host.name}, "spec": {"podCIDR": format!("10.244.{index}.0/24"), "podCIDRs": [format!("10.244.{index}.0/24")]},
            "status": {"addresses": [{"type": "InternalIP", "address": format!("192.168.77.{index}")}]}});
        self.admin.create("/api/v1/nodes", &node).expect("a node");
        self.hosts.push(host);
    }

    /// The folder for logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// flanneld on a host, up when this returns.
    pub fn flanneld(&self, index: usize, extra: &[&str]) -> Daemon {
        let args: Vec<&str> = ["flanneld", "--ip-masq", "--kube-subnet-mgr", "--iptables-resync=0.3"]
            .iter()
            .chain(extra)
            .copied()
            .collect();
        let host = &self.hosts[index - 1];
        let daemon = host.start(self.folder(), &args, &[("FLANNELD_POLL_MS", "50")]);
        eventually("flanneld is up", || daemon.log().contains("Running backend"));
        daemon
    }

    /// calico-node on a host.
    pub fn calico_node(&self, index: usize, env: &[(&str, &str)]) -> Daemon {
        let fast = [("LAB_RESYNC_MS", "200"), ("LAB_POLL_MS", "50"), ("LAB_ROUTE_GRACE_MS", "1500")];
        let env: Vec<(&str, &str)> = fast.iter().chain(env).copied().collect();
        self.hosts[index - 1].start(self.folder(), &["calico-node"], &env)
    }

    /// install-cni on a host, done when this returns.
    pub fn install_cni(&self, index: usize) -> String {
        self.hosts[index - 1].start(self.folder(), &["install-cni"], &[]).finish()
    }

    /// True if calico-node says that it is ready.
    pub fn ready(&self, index: usize) -> bool {
        self.hosts[index - 1].try_sh(&format!("{LAB} calico-node --felix-ready")).is_ok()
    }

    /// Status and reason of NetworkUnavailable.
    pub fn condition(&self, node: &str) -> (String, String) {
        let object = self.admin.get(&format!("/api/v1/nodes/{node}")).expect("the node");
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found =
            conditions.iter().find(|condition| condition["type"] == "NetworkUnavailable").cloned().unwrap_or_default();
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        (text("status"), text("reason"))
    }

    /// Sets (or, with null, removes) annotations of a Node.
    pub fn annotate(&self, node: &str, annotations: &Value) {
        let patch = json!({"metadata": {"annotations": annotations}});
        self.admin.patch(&format!("/api/v1/nodes/{node}"), Patch::Merge, &patch).expect("the node can be annotated");
    }

    /// An annotation of a Node, or "".
    pub fn annotation(&self, node: &str, key: &str) -> String {
        let object = self.admin.get(&format!("/api/v1/nodes/{node}")).expect("the node");
        object["metadata"]["annotations"][key].as_str().unwrap_or_default().to_owned()
    }

    /// What a takeover's preparation leaves in the cluster; see [`prepare`].
    pub fn prepare(&self, block_size: u8, claim: bool) {
        let names: Vec<&str> = self.hosts.iter().map(|host| host.name.as_str()).collect();
        prepare(&self.admin, if claim { &names } else { &[] }, block_size);
    }

    /// A Pod object bound to a node.
    pub fn pod(&self, name: &str, node: &str) {
        let pod = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": "lab/pod"}]}});
        self.admin.create("/api/v1/namespaces/default/pods", &pod).expect("a pod");
    }

    /// Writes a pod's address into its status, as the kubelet does.
    pub fn pod_ip(&self, name: &str, address: &str) {
        let patch = json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
        self.admin
            .patch(&format!("/api/v1/namespaces/default/pods/{name}/status"), Patch::Merge, &patch)
            .expect("a status");
    }

    /// A pod as flannel and the bridge plugin make it: on cni0, /24, default route through .1.
    pub fn bridge_pod(&self, index: usize, name: &str, address: &str) {
        let host = &self.hosts[index - 1];
        host.sh(&format!(
            "ip link show cni0 >/dev/null 2>&1 || {{ ip link add cni0 type bridge; ip address add 10.244.{index}.1/24 dev cni0; ip link set cni0 up; }}
             ip netns add {name}
             ip link add ve-{name} type veth peer name eth0 netns {name}; ip link set ve-{name} master cni0 up
             ip -n {name} address add {address}/24 dev eth0; ip -n {name} link set eth0 up; ip -n {name} link set lo up
             ip -n {name} route add default via 10.244.{index}.1"
        ));
    }

    /// The configuration that the runtime gives to the calico plugin, from the conflist on the node.
    pub fn conf(&self, index: usize) -> Value {
        let list: Value = serde_json::from_str(&self.hosts[index - 1].sh("cat /etc/cni/net.d/10-calico.conflist"))
            .expect("a whole conflist");
        let mut conf = list["plugins"][0].clone();
        conf["name"] = list["name"].clone();
        conf["cniVersion"] = list["cniVersion"].clone();
        conf
    }
}

/// CNI_ARGS for a pod in the default namespace.
pub fn args(pod: &str) -> String {
    format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_INFRA_CONTAINER_ID=x")
}
