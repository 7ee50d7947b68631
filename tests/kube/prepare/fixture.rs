//! A cluster without machines: an API server with its controllers, flannel and Calico installed, and a thread that
//! plays kubelet, flanneld and calico-node as far as the API server can see them.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nodectl_lab::apiserver::Options;
use nodectl_lab::client::{Client, Patch};
use nodectl_lab::cluster::POD_NETWORK_V6;
use nodectl_lab::objects::{calico, calico_crds, canal, flannel, install};
use nodectl_lab::wait::eventually;
use serde_json::{Value, json};

use super::support::{Fixture, play_kubelet};

/// flannel's pods.
const FLANNEL: &str = "/api/v1/namespaces/kube-flannel/pods";
/// Canal's.
const CANAL: &str = "/api/v1/namespaces/kube-system/pods?labelSelector=k8s-app%3Dcanal";

pub struct Cluster {
    pub fixture: Fixture,
    /// The IPv6 pod network, where the cluster has one.
    network_v6: Option<&'static str>,
    /// Where flannel's pods are listed, or Canal's.
    agents: &'static str,
    stopped: Arc<AtomicBool>,
    player: Option<std::thread::JoinHandle<()>>,
}

/// What a run of nodectl came to.
#[derive(Debug)]
pub struct Done {
    /// `None`: it was killed.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    #[track_caller]
    pub fn exits(self, code: i32) -> Done {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", self.stdout, self.stderr))
    }

    /// Names of the checks that refuse.
    pub fn refusals(&self) -> Vec<String> {
        let checks = self.json()["checks"].as_array().cloned().unwrap_or_default();
        let refused = checks.iter().filter(|c| c["outcome"] == "refused");
        refused.map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    }
}

/// Whether a test that is about the stand-in has run already, in the suite's other pass: this one is against a real server.
pub fn has_run() -> bool {
    let real = nodectl_lab::cluster::assets().is_some();
    if real {
        eprintln!("skipped: this case is about the stand-in");
    }
    real
}

impl Cluster {
    /// With this many nodes, all of them running flannel.
    pub fn start(nodes: u8) -> Cluster {
        Cluster::with(nodes, |_| {})
    }

    pub fn with(nodes: u8, change: impl FnOnce(&mut Options)) -> Cluster {
        Cluster::on(Fixture::with(change), nodes, true, None)
    }

    /// On the stand-in, for what only that does.
    pub fn stand_in(nodes: u8) -> Cluster {
        Cluster::on(Fixture::stand_in(|_| {}), nodes, true, None)
    }

    /// With IPv6 beside IPv4.
    pub fn dual_stack(nodes: u8) -> Cluster {
        Cluster::on(Fixture::with(|_| {}), nodes, true, Some(POD_NETWORK_V6))
    }

    /// On Canal.
    pub fn canal(nodes: u8) -> Cluster {
        Cluster::with_agents(Fixture::with(|_| {}), nodes, true, None, CANAL)
    }

    /// The same without controllers and agents: flannel has annotated the nodes, and nobody has to be waited for.
    pub fn quiet(nodes: u8) -> Cluster {
        Cluster::on(Fixture::stand_in(|options| options.no_controllers = true), nodes, false, None)
    }

    /// The same, prepared, with every node on Calico.
    pub fn rolled(nodes: u8) -> Cluster {
        let cluster = Cluster::quiet(nodes);
        cluster.run(&["prepare"]).exits(0);
        (1..=nodes).for_each(|index| cluster.put_on_calico(index));
        cluster
    }

    /// The node's label and its calico-node, as its nodectl and the controllers leave them once the DaemonSet has no node selector
    /// of ours.
    fn put_on_calico(&self, index: u8) {
        self.label(index, "calico");
        let set = self.admin().get("/apis/apps/v1/namespaces/kube-system/daemonsets/calico-node").unwrap();
        let owner = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "calico-node", "controller": true,
            "uid": set["metadata"]["uid"]});
        let mut pod = super::support::pod(&format!("calico-node-{index}"), &format!("node{index}"));
        pod["metadata"]["ownerReferences"] = json!([owner]);
        self.admin().create("/api/v1/namespaces/kube-system/pods", &pod).unwrap();
        play_kubelet(self.admin());
    }

    fn on(fixture: Fixture, nodes: u8, lives: bool, network_v6: Option<&'static str>) -> Cluster {
        Cluster::with_agents(fixture, nodes, lives, network_v6, FLANNEL)
    }

    fn with_agents(
        fixture: Fixture,
        nodes: u8,
        lives: bool,
        network_v6: Option<&'static str>,
        agents: &'static str,
    ) -> Cluster {
        let admin = &fixture.admin;
        let second = || network_v6.map(str::to_owned);
        let flannel = flannel::Flannel { network_v6: second(), ..flannel::Flannel::default() };
        match agents {
            CANAL => install(admin, &canal::manifests(&canal::Canal::default())).unwrap(),
            _ => install(admin, &flannel::manifests(&flannel)).unwrap(),
        }
        install(admin, &calico_crds::manifests()).unwrap();
        let calico = calico::Calico { network_v6: second(), ..calico::Calico::default() };
        install(admin, &calico::manifests(&calico)).unwrap();
        let kubeconfig = fixture.server.pki.admin_kubeconfig(&fixture.server.url()).unwrap();
        std::fs::write(fixture.path("admin.conf"), kubeconfig).unwrap();
        std::fs::create_dir(fixture.path("backup")).unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let (stop, client) = (stopped.clone(), Client::from_kubeconfig(&fixture.path("admin.conf")).unwrap());
        let player = lives.then(|| std::thread::spawn(move || play(&client, &stop, agents)));
        let cluster = Cluster { fixture, network_v6, agents, stopped, player };
        (1..=nodes).for_each(|index| cluster.join(index));
        for index in 1..=nodes {
            if !lives {
                annotate(cluster.admin(), &format!("node{index}")).unwrap();
            }
            cluster.eventually_annotated(index);
            if lives {
                cluster.eventually_on_flannel(index);
            }
        }
        cluster
    }

    /// flannel's pod is Ready, and the taint is gone with which a node registers at a real server.
    fn eventually_on_flannel(&self, index: u8) {
        let name = format!("node{index}");
        eventually("flannel serves the node", || {
            let pods = self.admin().list(self.agents).unwrap();
            let ready = |pod: &Value| pod["spec"]["nodeName"] == name.as_str() && pod["status"]["phase"] == "Running";
            let taints = self.node(index)["spec"]["taints"].as_array().map_or(0, Vec::len);
            taints == 0 && pods.iter().any(ready)
        });
    }

    pub fn admin(&self) -> &Client {
        &self.fixture.admin
    }

    /// A node registers.
    pub fn join(&self, index: u8) {
        let name = format!("node{index}");
        let mut node = nodectl_lab::objects::node(&name, &format!("192.168.77.{index}"));
        let mut cidrs = vec![format!("10.244.{index}.0/24")];
        cidrs.extend(self.network_v6.map(|_| format!("fd00:10:244:{index}::/64")));
        node["spec"] = json!({"podCIDR": cidrs[0], "podCIDRs": cidrs});
        self.admin().create("/api/v1/nodes", &node).unwrap();
        super::support::make_ready(self.admin(), &name);
    }

    pub fn eventually_annotated(&self, index: u8) {
        eventually("flannel annotates the node", || {
            self.node(index)["metadata"]["annotations"]["flannel.alpha.coreos.com/public-ip"].is_string()
        });
    }

    pub fn node(&self, index: u8) -> Value {
        self.admin().get(&format!("/api/v1/nodes/node{index}")).unwrap()
    }

    pub fn patch(&self, path: &str, patch: &Value) {
        self.admin().patch(path, Patch::Merge, patch).unwrap();
    }

    /// What a node's own nodectl does to its label.
    pub fn label(&self, index: u8, cni: &str) {
        self.patch(&format!("/api/v1/nodes/node{index}"), &json!({"metadata": {"labels": {"nodectl.io/cni": cni}}}));
    }

    /// The node is switched, as far as the API server sees it.
    pub fn switch(&self, index: u8, cni: &str) {
        self.label(index, cni);
        eventually("the other agent has come", || {
            let rows = self.run(&["status"]).json()["nodes"].as_array().cloned().unwrap();
            let row = rows.iter().find(|r| r["node"] == format!("node{index}")).unwrap();
            row["running"] == json!([{"agent": cni, "state": "ready"}])
        });
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let nodectl: PathBuf = nodectl_lab::cluster::Options::default()
            .nodectl
            .expect("the binary nodectl is missing. To fix it: cargo build -p nodectl, or name it in LAB_NODECTL");
        let mut command = Command::new(nodectl);
        command.args(["cluster", "--kubeconfig"]).arg(self.fixture.path("admin.conf"));
        command.args(args).args(["--output", "json"]);
        let writes = !args.contains(&"status") && !args.contains(&"manifest");
        if writes && !args.contains(&"--backup-dir") {
            command.arg("--backup-dir").arg(self.fixture.path("backup"));
        }
        command.env_remove("KUBECONFIG").env_remove("NODECTL_FAULT");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, args: &[&str]) -> Done {
        finished(self.command(args).output().unwrap())
    }

    /// Everything but what the server, the controllers and the agents keep by themselves.
    pub fn dump(&self) -> Vec<String> {
        let everything = self.everything();
        let kept = |resource: &str| {
            ![
                "pods",
                "events",
                "events.events.k8s.io",
                "componentstatuses",
                "controllerrevisions.apps",
                "leases.coordination.k8s.io",
            ]
            .contains(&resource)
        };
        // A real server keeps its own certificate authorities there, and when tokens of old were last used.
        let its_own = |value: &Value| {
            let name = value["metadata"]["name"].as_str().unwrap_or_default();
            ["extension-apiserver-authentication", "kube-apiserver-legacy-service-account-token-tracking"]
                .contains(&name)
        };
        let mut lines: Vec<String> = everything
            .into_iter()
            .filter(|(resource, value)| kept(resource) && !its_own(value))
            .map(|(resource, value)| format!("{resource} {}", normal(value)))
            .collect();
        lines.sort();
        lines
    }

    /// All objects of all resources that can be listed, each in one version.
    fn everything(&self) -> Vec<(String, Value)> {
        let admin = self.admin();
        let mut versions = vec![(String::new(), "/api/v1".to_owned())];
        for group in admin.get("/apis").unwrap()["groups"].as_array().unwrap() {
            let version = group["preferredVersion"]["groupVersion"].as_str().unwrap();
            versions.push((format!(".{}", group["name"].as_str().unwrap()), format!("/apis/{version}")));
        }
        let mut found = Vec::new();
        for (group, path) in versions {
            for resource in admin.get(&path).unwrap()["resources"].as_array().unwrap() {
                let name = resource["name"].as_str().unwrap();
                let verbs = resource["verbs"].as_array().unwrap();
                if verbs.contains(&json!("list")) && !name.contains('/') {
                    let items = admin.list(&format!("{path}/{name}")).unwrap();
                    found.extend(items.into_iter().map(|item| (format!("{name}{group}"), item)));
                }
            }
        }
        found
    }

    /// How many changes the server has stored.
    pub fn revision(&self) -> u64 {
        let list = self.admin().get("/api/v1/namespaces/kube-public/secrets?limit=1").unwrap();
        list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    }

    /// Waits until nobody writes any more.
    pub fn settle(&self) {
        let mut last = self.revision();
        eventually("the cluster settles", || {
            std::thread::sleep(Duration::from_millis(150));
            std::mem::replace(&mut last, self.revision()) == last
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(player) = self.player.take() {
            let _ = player.join();
        }
    }
}

pub fn finished(output: std::process::Output) -> Done {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Done { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// An object without what the server counts and times, and without status.
fn normal(mut value: Value) -> String {
    for field in ["resourceVersion", "uid", "generation", "managedFields", "creationTimestamp"] {
        value["metadata"].as_object_mut().unwrap().remove(field);
    }
    value.as_object_mut().unwrap().remove("status");
    value["metadata"]["annotations"].as_object_mut().map(|a| a.remove("deprecated.daemonset.template.generation"));
    for empty in ["annotations", "labels"] {
        if value["metadata"][empty].as_object().is_none_or(serde_json::Map::is_empty) {
            value["metadata"].as_object_mut().unwrap().remove(empty);
        }
    }
    value.sort_all_objects();
    value.to_string()
}

fn play(admin: &Client, stopped: &AtomicBool, agents: &str) {
    while !stopped.load(Ordering::Relaxed) {
        // Faults that a test asks for meet this thread too; it just goes on.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play_kubelet(admin)));
        for pod in admin.list(agents).unwrap_or_default() {
            if let Some(node) = pod["spec"]["nodeName"].as_str() {
                let _ = annotate(admin, node);
            }
        }
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// As flanneld does when it starts.
fn annotate(admin: &Client, name: &str) -> Option<()> {
    let path = format!("/api/v1/nodes/{name}");
    let node = admin.get(&path).ok()?;
    if node["metadata"]["annotations"]["flannel.alpha.coreos.com/public-ip"].is_string() {
        return None;
    }
    let index: u8 = name.strip_prefix("node")?.parse().ok()?;
    let data = json!({"VNI": 1, "VtepMAC": format!("0e:00:00:00:00:{index:02x}")}).to_string();
    let mut annotations = json!({
        "flannel.alpha.coreos.com/backend-data": data,
        "flannel.alpha.coreos.com/backend-type": "vxlan",
        "flannel.alpha.coreos.com/kube-subnet-manager": "true",
        "flannel.alpha.coreos.com/public-ip": format!("192.168.77.{index}"),
    });
    if node["spec"]["podCIDRs"].as_array().is_some_and(|cidrs| cidrs.len() > 1) {
        let data = json!({"VNI": 1, "VtepMAC": format!("0e:00:00:00:06:{index:02x}")}).to_string();
        annotations["flannel.alpha.coreos.com/backend-v6-data"] = json!(data);
        annotations["flannel.alpha.coreos.com/public-ipv6"] = json!(format!("fd00:77::{index}"));
    }
    admin
        .patch(&format!("{path}/status"), Patch::Strategic, &json!({"metadata": {"annotations": annotations}}))
        .ok()?;
    Some(())
}

/// Shows where two dumps differ.
#[track_caller]
pub fn same(left: &[String], right: &[String]) {
    let only = |a: &[String], b: &[String]| a.iter().filter(|l| !b.contains(l)).cloned().collect::<Vec<_>>().join("\n");
    assert!(left == right, "only here:\n{}\nonly there:\n{}", only(left, right), only(right, left));
}

/// A dump without what differs from run to run: when, and the sequence numbers of blocks made then.
pub fn timeless(dump: &[String]) -> Vec<String> {
    dump.iter()
        .map(|line| {
            let (resource, json) = line.split_once(' ').unwrap();
            let mut value: Value = serde_json::from_str(json).unwrap();
            forget_times(&mut value);
            format!("{resource} {value}")
        })
        .collect()
}

fn forget_times(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map.iter_mut() {
                match key.as_str() {
                    "affinityClaimTime" | "prepared_at" | "sequenceNumber" | "deletionTimestamp" => {
                        *inner = Value::Null
                    }
                    "sequenceNumberForAllocation" => {
                        inner.as_object_mut().into_iter().flatten().for_each(|(_, n)| *n = Value::Null)
                    }
                    _ => forget_times(inner),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(forget_times),
        Value::String(text) if text.starts_with('{') => {
            if let Ok(mut document) = serde_json::from_str::<Value>(text) {
                forget_times(&mut document);
                *text = document.to_string();
            }
        }
        _ => {}
    }
}
